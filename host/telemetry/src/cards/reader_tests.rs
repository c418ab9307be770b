//! What a reading is made of, whatever a card refuses, and how often it is asked again.

use super::*;
use crate::cards::fake::{ACTIVITY, CLOCK, COUNTERS, FakeCard, MEMORY, POWER, THROTTLING, UTILIZATION};

const WHOLE: DeviceReading = DeviceReading {
    taken: 7,
    nvml_gpu: Some(0.9),
    nvml_memory: Some(0.5),
    memory_used_bytes: Some(70),
    memory_total_bytes: Some(141),
    power_watts: Some(650.0),
    sm_clock_hz: Some(1_980_000_000),
    throttle_reasons: Some(4),
    sm_activity: Some(0.25),
    dram_activity: None,
};

/// The second reading of a card that refuses this: there is activity only between two.
fn second(refused: Option<&'static str>) -> DeviceReading {
    let card = FakeCard::default();
    card.told().refuses.extend(refused);
    let mut reader = Reader::new(card.clone());
    reader.read(6);
    card.told().counted += 0.25;
    reader.read(7)
}

/// The readings, of so many, in which the card was asked this.
fn asked(reader: &mut Reader<FakeCard>, card: &FakeCard, question: &str, readings: usize) -> Vec<usize> {
    let mut is_asked = |_: &usize| {
        card.told().asked.clear();
        reader.read(0);
        card.told().asked.contains(&question)
    };
    (0..readings).filter(|reading| is_asked(reading)).collect()
}

#[test]
fn what_is_refused_is_unknown_and_nothing_else() {
    let cases = [
        (None, WHOLE),
        (Some(UTILIZATION), DeviceReading { nvml_gpu: None, nvml_memory: None, ..WHOLE }),
        (Some(MEMORY), DeviceReading { memory_used_bytes: None, memory_total_bytes: None, ..WHOLE }),
        (Some(POWER), DeviceReading { power_watts: None, ..WHOLE }),
        (Some(CLOCK), DeviceReading { sm_clock_hz: None, ..WHOLE }),
        (Some(THROTTLING), DeviceReading { throttle_reasons: None, ..WHOLE }),
        (Some(COUNTERS), DeviceReading { sm_activity: None, ..WHOLE }),
        (Some(ACTIVITY), DeviceReading { sm_activity: None, ..WHOLE }),
    ];
    for (refused, expected) in cases {
        assert_eq!(second(refused), expected, "{refused:?} is refused");
    }
}

#[test]
fn what_is_refused_for_ever_is_asked_about_once_a_minute() {
    for question in [UTILIZATION, MEMORY, POWER, CLOCK, THROTTLING, COUNTERS, ACTIVITY] {
        let card = FakeCard::default();
        let mut reader = Reader::new(card.clone());
        reader.read(0);
        card.told().refuses.push(question);
        let readings = asked(&mut reader, &card, question, 256);
        assert_eq!(readings, [0, 1, 3, 7, 15, 31, 63, 127, 191, 255], "{question}");
    }
}

#[test]
fn what_is_answered_again_is_asked_every_time_again() {
    let card = FakeCard::default();
    card.told().refuses.push(POWER);
    let mut reader = Reader::new(card.clone());
    assert_eq!(asked(&mut reader, &card, POWER, 5), [0, 1, 3]);
    card.told().refuses.clear();
    assert_eq!(asked(&mut reader, &card, POWER, 6), [2, 3, 4, 5]);
    card.told().refuses.push(POWER);
    assert_eq!(asked(&mut reader, &card, POWER, 4), [0, 1, 3], "as after the first refusal");
}

#[test]
fn activity_is_from_one_reading_to_the_next_or_unknown() {
    let card = FakeCard::default();
    let mut reader = Reader::new(card.clone());
    let mut sm = |counted: f64, refuses: &[&'static str]| {
        let mut told = card.told();
        (told.counted, told.refuses) = (counted, refuses.to_vec());
        drop(told);
        reader.read(0).sm_activity
    };
    assert_eq!(sm(1.0, &[]), None);
    assert_eq!(sm(1.5, &[]), Some(0.5));
    assert_eq!(sm(1.75, &[]), Some(0.25));
    assert_eq!(sm(2.0, &[COUNTERS]), None);
    assert_eq!(sm(2.5, &[]), None, "the count before the refusal is too old");
    assert_eq!(sm(2.75, &[]), Some(0.25));
    assert_eq!(sm(f64::NAN, &[]), None);
}
