//! Dates for chat templates that tell the model which day it is: `strftime` of a time that is passed in.

/// Seconds since 1970-01-01T00:00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnixSeconds(pub u64);

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// 9999-12-31; later times are taken for it.
const LAST_DAY: u64 = 2_932_896;

struct Date {
    year: u64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: u64,
    /// 0 is Monday.
    weekday: usize,
}

impl UnixSeconds {
    /// The formats that templates use; the error is the letter that is unknown.
    pub(crate) fn strftime(self, format: &str) -> Result<String, char> {
        let date = Date::of(self.0 / 86_400);
        let (hour, minute, second) = (self.0 / 3_600 % 24, self.0 / 60 % 60, self.0 % 60);
        let (weekday, month) = (DAYS[date.weekday], MONTHS[date.month - 1]);
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            out += &match rest.next().unwrap_or('%') {
                'Y' => format!("{}", date.year),
                'y' => format!("{:02}", date.year % 100),
                'm' => format!("{:02}", date.month),
                'd' => format!("{:02}", date.day),
                'e' => format!("{:2}", date.day),
                'B' => month.to_owned(),
                'b' => month[..3].to_owned(),
                'A' => weekday.to_owned(),
                'a' => weekday[..3].to_owned(),
                'H' => format!("{hour:02}"),
                'M' => format!("{minute:02}"),
                'S' => format!("{second:02}"),
                '%' => "%".to_owned(),
                other => return Err(other),
            };
        }
        Ok(out)
    }
}

impl Date {
    /// Days since 1970-01-01, by Howard Hinnant's `civil_from_days`, in years that begin in March.
    fn of(days: u64) -> Self {
        let days = days.min(LAST_DAY);
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month: month as usize,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            weekday: ((days + 3) % 7) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check =
            |seconds, format, expected: &str| assert_eq!(UnixSeconds(seconds).strftime(format).unwrap(), expected);
        check(0, "%A %Y-%m-%d %H:%M:%S", "Thursday 1970-01-01 00:00:00");
        check(951_782_400, "%d %b %Y", "29 Feb 2000");
        check(1_735_689_599, "%a %e %B %y %H%%", "Tue 31 December 24 23%");
        check(4_107_542_400, "%d.%m.%Y", "01.03.2100");
        check(u64::MAX, "%Y-%m-%d", "9999-12-31");
        assert_eq!(UnixSeconds(0).strftime("%Q"), Err('Q'));
    }
}
