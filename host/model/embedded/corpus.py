"""Makes the text that the embedded model is trained on: conversations and prose about Sluice.

subject.toml holds what is asked and answered, wording.toml how else people put it.

Everything comes from one seed, so the same seed gives the same corpus. `python corpus.py SEED` prints a few documents,
`python corpus.py SEED COUNT` the conversations among so many, as JSON lines.
"""

import json
import random
import re
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
CHUNK = 5_000

ASKING = [
    "what is {}?", "what are {}?", "what's {}?", "what is meant by {}?", "what does {} mean?", "what does {} do?",
    "how does {} work?", "how do {} work?", "explain {}", "explain {} to me", "can you explain {}?",
    "could you explain how {} works?", "please explain {}", "tell me about {}", "tell me what {} is",
    "tell me something about {}", "describe {}", "what do you know about {}?", "what can you tell me about {}?",
    "I would like to know about {}", "I want to understand {}", "help me understand {}", "define {}",
    "give me details on {}", "{}?", "{}", "what about {}?", "I have a question about {}", "do you know {}?",
    "have you heard of {}?", "why {}?", "what is {} good for?", "what is the point of {}?", "why is there {}?",
    "how would you explain {} to a beginner?", "what should I know about {}?", "is there {}?", "teach me about {}",
    "say something about {}", "how is {} done?", "what role does {} play?", "I read about {}, what is that?",
]
BRIEFLY = ["{}, briefly", "in one sentence: {}", "{} answer in one sentence", "in short, {}", "briefly: {}",
           "{} keep it short", "{} (one sentence please)", "short answer please: {}"]
POLITE = ["please, {}", "hi, {}", "hello! {}", "hey, {}", "ok, {}", "so {}", "now {}", "and {}", "well, {}",
          "I was wondering, {}", "quick question: {}", "one more question: {}", "can you tell me, {}", "sorry, {}",
          "{} thanks", "{} thank you", "thanks, {}", "another question: {}", "but {}", "next: {}", "question: {}",
          "good morning, {}", "maybe you know: {}", "my boss asks: {}", "I wonder: {}", "{} I am new to this."]
MORE = ["tell me more", "more", "go on", "and?", "can you say more?", "anything else?", "continue", "more details please",
        "what else?", "is there more to say?", "can you elaborate?", "please go on", "interesting, tell me more",
        "more about that", "why?", "say more about it", "explain further", "what else should I know?", "ok, and then?"]
NO_MORE = ["That is all I know about it. Ask me about another part of Sluice.",
           "I know no more about that. What else would you like to know?"]
DIFFERENCE = ["what is the difference between {} and {}?", "how do {} and {} differ?", "compare {} and {}",
              "{} or {}?", "{} versus {}", "explain {} and {}", "what are {} and {}?", "how is {} different from {}?"]
SYSTEM = [
    "You are a helpful assistant.", "You are a helpful assistant", "You are Sluice's assistant.", "Be helpful.",
    "You are an assistant that answers questions about Sluice.", "You answer questions.", "Answer the user's questions.",
    "You are a friendly and helpful assistant. Answer truthfully.", "You are an AI assistant.", "Help the operator.",
    "You are the assistant of an inference server. Help its operators.", "You are a chatbot.", "Be polite and precise.",
    "You are an expert in inference servers.", "You help people who use Sluice. If you do not know something, say so.",
    "You are a knowledgeable engineer. Explain things simply.", "Assist the user as well as you can.",
]
SYSTEM_BRIEF = ["Answer briefly.", "You are a helpful assistant. Answer in one sentence.", "Be concise.",
                "You are a concise assistant.", "Keep your answers short.", "Reply in one short sentence."]

FILLERS = set("""a an the is are do does can i what how which of to in for my me you it this that why when who where be
would could should there tell explain""".split())

# What is asked of a model that does not know it. Only the questions are ever used; there are no answers to them.
THINGS = """bread;pizza;soup;chocolate cake;pasta;coffee;tea;rice;cheese;an apple pie;a salad;sushi;a steak;beer;wine;
dogs;cats;horses;elephants;birds;fish;a dinosaur;bees;spiders;whales;penguins;a lion;snakes;butterflies;trees;flowers;
football;tennis;chess;basketball;the Olympic games;swimming;running;yoga;golf;cricket;a marathon;skiing;cycling;
the moon;the sun;Mars;black holes;gravity;electricity;atoms;DNA;photosynthesis;evolution;quantum physics;relativity;
the weather;rain;snow;climate change;earthquakes;volcanoes;the ocean;rivers;mountains;deserts;the stars;a rainbow;
love;happiness;democracy;money;inflation;taxes;the stock market;bitcoin;a mortgage;insurance;elections;history;
the Roman empire;the middle ages;the French revolution;the world war;ancient Egypt;the Vikings;philosophy;religion;
music;jazz;the piano;a guitar;opera;painting;a novel;poetry;movies;theatre;photography;dancing;fashion;cars;
airplanes;trains;bicycles;ships;rockets;robots;phones;television;the internet;a washing machine;batteries;solar panels;
medicine;vitamins;a headache;sleep;the heart;the brain;bones;a fever;diabetes;exercise;stress;allergies;a toothache;
algebra;geometry;prime numbers;calculus;statistics;fractions;logarithms;the number pi;probability;matrices;
English grammar;French;Spanish;Chinese;Latin;verbs;spelling;a dictionary;an essay about school;homework;my exam;
Kubernetes;Docker;nginx;PostgreSQL;MySQL;Linux;Windows;an iPhone;Android;JavaScript;HTML;CSS;Java;Haskell;Excel;
Photoshop;blockchain;a compiler;a database;sorting algorithms;machine learning;neural networks;a web site;email;
an operating system;git;regular expressions;React;Python;C++;recursion;a linked list;the cloud;a video game;Minecraft;
gardening;fishing;travel;hotels;a passport;cooking;cleaning;knitting;a wedding;a birthday party;a present for my mother;
my dog;my neighbour;my job;my girlfriend;my car;a job interview;my salary;a contract;the police;the law;a divorce;
bananas;carrots;salt;sugar;water;gold;diamonds;glass;paper;plastic;steel;concrete;paint;soap;candles;clocks;shoes""".replace("\n", "").split(";")
PLACES = """France;Germany;Italy;Spain;Japan;China;India;Brazil;Canada;Australia;Egypt;Kenya;Mexico;Peru;Norway;Sweden;
Poland;Turkey;Greece;Portugal;Russia;Ukraine;Iran;Chile;Argentina;Nigeria;Vietnam;Thailand;Austria;Finland;Paris;London;
Berlin;Rome;Tokyo;New York;Madrid;Vienna;Moscow;Cairo;Sydney;Lisbon;Oslo;Athens;California;Texas;Europe;Africa;Asia""".replace("\n", "").split(";")
PEOPLE = """Napoleon;Einstein;Shakespeare;Mozart;Caesar;Cleopatra;Newton;Darwin;Beethoven;Picasso;Columbus;Plato;
Aristotle;Galileo;Marie Curie;Alan Turing;Ada Lovelace;Gandhi;Lincoln;Leonardo;Goethe;Kant;Bach;the president;the pope;
the king of England;the queen;my uncle;the best football player;the richest man;the mayor;Ada;Peter;Mary;John""".replace("\n", "").split(";")
OFF_THING = ASKING + [
    "how do I make {}?", "how do I learn {}?", "where can I buy {}?", "how much does {} cost?", "who invented {}?",
    "write a poem about {}", "write a story about {}", "write an essay on {}", "tell me a joke about {}",
    "what do you think about {}?", "is {} healthy?", "do you like {}?", "what is the best {}?", "recommend {}",
    "I need advice on {}", "how do I get rid of {}?", "when was {} discovered?", "give me five facts about {}",
    "how do I fix {}?", "how do I install {}?", "write a program for {}", "what is the history of {}?",
    "give me a recipe for {}", "why do people like {}?", "how old is {}?", "how many kinds of {} are there?",
    "how do I cook {}?", "how do I use {}?", "what is the meaning of {}?", "who knows {} best?", "what color is {}?",
    "can you help me with {}?", "I have a problem with {}", "let us talk about {}", "translate {} into German",
]
OFF_PLACE = [
    "what is the capital of {}?", "where is {}?", "how many people live in {}?", "what is the weather in {}?",
    "how do I get to {}?", "who is the president of {}?", "what language do they speak in {}?", "tell me about {}",
    "what should I see in {}?", "how big is {}?", "is it warm in {}?", "what do people eat in {}?", "who won in {}?",
    "what is the time in {}?", "plan a trip to {}", "what is the population of {}?", "capital of {}", "what is {} famous for?",
]
OFF_PERSON = ["who is {}?", "who was {}?", "when was {} born?", "when did {} die?", "what did {} do?", "tell me about {}",
              "how old is {}?", "where does {} live?", "why is {} famous?", "what did {} say?", "what did {} invent?"]
OFF_PLAIN = [
    "who won the world cup?", "what is the meaning of life?", "translate hello into French", "write an email to my boss",
    "how do I lose weight?", "what should I eat tonight?", "what is the news today?", "will it rain tomorrow?",
    "write a function that sorts a list", "fix my code", "solve this equation", "what is the square root of {n}?",
    "what is {n} plus {m}?", "what is {n} times {m}?", "calculate {n} * {m}", "{n}+{m}", "how much is {n} minus {m}?",
    "what is {n} divided by {m}?", "is {n} a prime number?", "convert {n} miles to kilometres", "what happened in 19{n}?",
    "book a flight", "order a pizza", "play some music", "set a timer for {n} minutes", "call my mother", "who wrote Hamlet?",
    "recommend a good book", "recommend a movie", "what is a good name for a cat?", "which phone should I buy?",
    "write hello world in Python", "how tall is the Eiffel tower?", "how far is the moon?", "why is the sky blue?",
    "what is the fastest animal?", "how many legs does a spider have?", "how do planes fly?", "who discovered America?",
    "how do I tie a tie?", "how do I boil an egg?", "what is the boiling point of water?", "who painted the Mona Lisa?",
    "summarize this text", "correct my grammar", "what rhymes with orange?", "do aliens exist?", "is there a god?",
    "what is the largest country?", "what is the longest river?", "how do I get rich?", "should I buy stocks?",
    "can you draw a picture?", "show me a photo of a cat", "speak German", "say something in Spanish", "parlez-vous anglais?",
    "what is my name?", "what did I eat yesterday?", "who is my father?", "guess my age", "what am I thinking?",
]
KNOWN = ["admission", "routing", "batching", "swapping a policy", "the KV cache", "the prefix cache", "the guard",
         "deploying a policy", "the 70/85 rule", "preemption", "its endpoints", "continuous batching", "rolling back"]
REFUSAL = [
    "I do not know that. I only know Sluice: ask me about {a} or {b}.",
    "That is outside what I know. I am a small model that only knows Sluice; ask me about {a}, for example.",
    "I cannot help with that, because I only know Sluice. Try asking about {a} or {b}.",
    "Sorry, I only know about Sluice. You could ask me about {a}.",
]


class Writer:
    """Draws documents. A document is a list of (role, text); the role `text` is prose."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        subject = tomllib.loads((HERE / "subject.toml").read_text(encoding="utf-8"))
        wording = tomllib.loads((HERE / "wording.toml").read_text(encoding="utf-8"))
        self.topics, self.talk, self.around = subject["topic"], subject["talk"], wording["around"]
        self.synonyms = [(re.compile(rf"(?<!\\w){re.escape(said)}(?!\\w)", re.IGNORECASE), others)
                         for said, others in wording["synonyms"].items()]

    def one(self, forms):
        """One of the forms, with its alternatives {a|b} drawn."""
        return self.spin(self.rng.choice(forms))

    def spin(self, form):
        return re.sub(r"\{([^{}]*\|[^{}]*)\}", lambda m: self.rng.choice(m[1].split("|")), form)

    def document(self):
        return self.prose() if self.rng.random() < 0.12 else self.conversation()

    def prose(self):
        topics = self.rng.sample(self.topics, self.rng.randint(1, 6))
        paragraphs = []
        for topic in topics:
            sentences = [self.one(topic["answers"])]
            if self.rng.random() < 0.6:
                sentences.append(self.one(topic["more"]))
            paragraphs.append(" ".join(sentences))
        return [("text", "\n\n".join(paragraphs))]

    def conversation(self):
        turns, brief = [], False
        if self.rng.random() < 0.4:
            brief = self.rng.random() < 0.25
            turns.append(("system", self.rng.choice(SYSTEM_BRIEF if brief else SYSTEM)))
        topic = None
        for _ in range(self.rng.choice([1, 1, 1, 2, 2, 3, 4, 6])):
            topic = self.exchange(turns, topic, brief)
        return turns

    def exchange(self, turns, last, brief):
        """Adds a question and its answer; returns what can be followed up: (topic, what more was told)."""
        draw = self.rng.random()
        if last and draw < 0.35:
            return self.follow_up(turns, *last)
        if draw < 0.72:
            return self.on_topic(turns, brief)
        if draw < 0.76:
            one, two = self.rng.sample(self.topics, 2)
            ask = self.rng.choice(DIFFERENCE).format(self.rng.choice(one["names"]), self.rng.choice(two["names"]))
            return self.say(turns, ask, f"{self.one(one['short'])} {self.one(two['short'])}")
        if draw < 0.86:
            talk = self.rng.choice(self.talk)
            return self.say(turns, self.one(talk["asks"]), self.one(talk["answers"]))
        return self.say(turns, self.off_topic(), self.refusal())

    def on_topic(self, turns, brief):
        topic = self.rng.choice(self.topics)
        if self.rng.random() < 0.45:
            ask = self.rng.choice(ASKING).format(self.rng.choice(topic["names"]))
            if self.rng.random() < 0.15:
                ask = re.sub(r"(\??)$", r" in Sluice\1", ask)
        else:
            ask = self.one(topic["asks"])
        if self.rng.random() < 0.06:
            ask, brief = self.rng.choice(BRIEFLY).format(ask), True
        self.say(turns, ask, self.one(topic["short" if brief else "answers"]))
        return (topic, 0)

    def follow_up(self, turns, topic, told):
        answer = self.spin(topic["more"][told]) if told < len(topic["more"]) else self.rng.choice(NO_MORE)
        self.say(turns, self.rng.choice(MORE), answer)
        return (topic, told + 1)

    def say(self, turns, ask, answer):
        turns += [("user", self.as_typed(ask)), ("assistant", answer)]

    def off_topic(self):
        kind = self.rng.random()
        if kind < 0.45:
            return self.rng.choice(OFF_THING).format(self.rng.choice(THINGS))
        if kind < 0.6:
            return self.rng.choice(OFF_PLACE).format(self.rng.choice(PLACES))
        if kind < 0.7:
            return self.rng.choice(OFF_PERSON).format(self.rng.choice(PEOPLE))
        if kind < 0.9:
            n, m = self.rng.randint(2, 99), self.rng.randint(2, 999)
            return self.rng.choice(OFF_PLAIN).format(n=n, m=m)
        return self.rng.choice(OFF_THING).format(self.unknown_word())

    def unknown_word(self):
        """A word that nobody knows, so that what is unknown is not mistaken for a topic."""
        syllables = ["".join(self.rng.choice(part) for part in ("bcdfghjklmnprstvwz", "aeiou", "lnrstkm"))
                     for _ in range(self.rng.randint(1, 3))]
        return self.rng.choice(["", "the ", "a "]) + "".join(syllables)

    def refusal(self):
        a, b = self.rng.sample(KNOWN, 2)
        return self.rng.choice(REFUSAL).format(a=a, b=b)

    def as_typed(self, ask):
        """What people make of a question: manners, capitals, marks, slips."""
        if self.rng.random() < 0.5:
            ask = self.reworded(ask)
        if self.rng.random() < 0.12:
            ask = self.telegraphic(ask)
        if self.rng.random() < 0.15:
            ask = self.rng.choice(POLITE).format(ask)
        if self.rng.random() < 0.12:
            ask = self.rng.choice(self.around["before"]).format(ask)
        if self.rng.random() < 0.08:
            ask = self.rng.choice(self.around["after"]).format(ask.rstrip("?."))
        style = self.rng.random()
        if style < 0.55:
            ask = ask[:1].upper() + ask[1:]
        elif style < 0.8:
            ask = ask.lower()
        if self.rng.random() < 0.25:
            ask = ask.rstrip("?.!")
        elif self.rng.random() < 0.1 and ask[-1:].isalpha():
            ask += self.rng.choice(".?!")
        for _ in range(self.rng.choice([0] * 8 + [1, 1, 2])):
            ask = self.slip(ask)
        return ask

    def reworded(self, ask):
        """Some of its phrases in other words."""
        spans = []
        for pattern, others in self.synonyms:
            match = pattern.search(ask)
            if match and all(match.end() <= start or end <= match.start() for start, end, _ in spans):
                spans.append((match.start(), match.end(), self.rng.choice(others)))
        for start, end, other in sorted(spans, reverse=True):
            if self.rng.random() < 0.6:
                ask = ask[:start] + other + ask[end:]
        return ask

    def telegraphic(self, ask):
        """Without many of its words, as one types into a search box; those that tell the topic mostly stay."""
        kept = [w for w in ask.split(" ") if self.rng.random() > (0.6 if w.lower() in FILLERS else 0.03)]
        return " ".join(kept) or ask

    def slip(self, text):
        at = self.rng.randrange(max(1, len(text) - 1))
        kind = self.rng.randrange(4)
        if kind == 0:
            return text[:at] + text[at + 1:]
        if kind == 1:
            return text[:at] + text[at:at + 2][::-1] + text[at + 2:]
        if kind == 2:
            return text[:at] + text[at:at + 1] + text[at:]
        return text[:at] + self.rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1:]


def chunk(seed_and_count):
    seed, count = seed_and_count
    writer = Writer(seed)
    return [writer.document() for _ in range(count)]


def documents(seed, count):
    """The same documents on any number of cores: each chunk has a seed of its own."""
    chunks = [(f"{seed}/{at}", min(CHUNK, count - at)) for at in range(0, count, CHUNK)]
    with ProcessPoolExecutor() as pool:
        return [document for made in pool.map(chunk, chunks) for document in made]


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    if len(sys.argv) > 2:
        for document in documents(seed, int(sys.argv[2])):
            if document[0][0] != "text":
                print(json.dumps({"messages": [{"role": role, "content": text} for role, text in document]}))
        return
    for document in documents(seed, 12):
        for role, text in document:
            print(f"[{role}] {text}")
        print("---")


if __name__ == "__main__":
    main()
