//! What posts say of moods and of programming languages: sentences with options of the polls in them, as
//! words and as hashtags, in several spellings, and some with words that only look like options.
//!
//! What a saying says is known from the options that were put into it; nobody has to read it.

use super::Dice;

/// The options of the poll `moods`, the most popular first.
pub const MOODS: [&str; 4] = ["happy", "sad", "success", "fail"];

/// The options of the poll `languages`, the most popular first. Several are told apart by signs alone,
/// or are the beginning of another, and one is two words.
pub const LANGUAGES: [&str; 11] =
    ["Rust", "C++", "Python", "C", "Go", "Java", "JavaScript", "C#", "TypeScript", "Visual Basic", "F#"];

/// Sentences in pieces, escaped as in JSON; an option stands between one and the next. A piece before an
/// option ends and a piece behind it begins with what parts words, and no piece holds an option of either
/// poll.
type Sentence = &'static [&'static str];

const OF_MOODS: [Sentence; 12] = [
    &["So ", " about that last update."],
    &["My mood after three hours in line: ", "."],
    &["", "! That is all there is to say."],
    &["From ", " to ", " between two updates of the map."],
    &["Half the room is ", ", the other half is ", "."],
    &["Call it what you like, I call it ", "."],
    &["Neighbours: ", ". Cat: ", "."],
    &[r#"If tonight had one word it would be \""#, r#"\"."#],
    &["Never been this ", " over a decimal place..."],
    &["Mother says (", "), and she has seen many of these."],
    // Nothing of these is an option.
    &["Unhappy, happily, happiness: none of these is a result."],
    &["A failed server, a successful reboot, some sadness between."],
];

const OF_LANGUAGES: [Sentence; 12] = [
    &["I write ", " not ", "."],
    &["Whoever wrote this counter in ", " deserves a medal."],
    &["The returns are parsed with ", ", of all things."],
    &["Moving our tally from ", " to ", ": wish us luck!"],
    &["", " or ", "? Asking for a clerk."],
    &["Learning ", " while the numbers trickle in."],
    &["Give me ", " (and tea), and I count anything."],
    &[r#"\""#, r#"\" said the volunteer when asked what she speaks."#],
    &["Nobody was ever fired for ", "/", ", they say."],
    &["After tonight it is ", " for me, no more spreadsheets."],
    // Nothing of these is an option.
    &["Rusty scanners, pythons in the pipes and a C64 to add it all up."],
    &["Golang's gophers, Javanese coffee, Rustaceans: who will count them?"],
];

/// How many spellings an option has; from [`AS_HASHTAG`] on they are hashtags.
const SPELLINGS: usize = 6;
const AS_HASHTAG: u8 = 3;

/// No option.
pub(super) const NONE: u8 = u8::MAX;

/// A saying before it is written.
#[derive(Clone, Copy)]
pub(super) struct Saying {
    sentence: u8,
    /// The options in the order of the text; [`NONE`] from where there are no more.
    pub(super) options: [u8; 2],
    spellings: [u8; 2],
}

impl Saying {
    /// Which of its options it spells as hashtags.
    pub(super) fn hashtags(&self) -> impl Iterator<Item = u8> {
        let spelled = self.options.into_iter().zip(self.spellings);
        spelled.filter(|(option, spelling)| *option != NONE && *spelling >= AS_HASHTAG).map(|(option, _)| option)
    }
}

/// The hashtag that services find where an option is spelled as one, in lower case: it ends at a sign, and
/// is none where that is `#`.
pub(super) fn hashtag_of(option: &str) -> Option<String> {
    let tag = option.replace(' ', "").to_lowercase();
    (!tag.ends_with('#')).then(|| tag.trim_end_matches('+').to_owned())
}

/// Sentences about the options of one poll.
pub(super) struct Sayings {
    sentences: &'static [Sentence],
    spelled: Vec<[String; SPELLINGS]>,
}

impl Sayings {
    pub(super) fn of_moods() -> Self {
        Self::new(&OF_MOODS, &MOODS)
    }

    pub(super) fn of_languages() -> Self {
        Self::new(&OF_LANGUAGES, &LANGUAGES)
    }

    fn new(sentences: &'static [Sentence], options: &[&str]) -> Self {
        let spell = |option: &&str| {
            let [word, tag] = [(*option).to_owned(), format!("#{}", option.replace(' ', ""))];
            let cases = |text: String| [text.to_uppercase(), text.to_lowercase(), text];
            let ([a, b, c], [d, e, f]) = (cases(word), cases(tag));
            [a, b, c, d, e, f]
        };
        Sayings { sentences, spelled: options.iter().map(spell).collect() }
    }

    pub(super) fn pick(&self, dice: &mut Dice) -> Saying {
        let mut bits = dice.bits();
        let mut below = |bound: usize| {
            let number = ((bits & 0xff) * bound as u64) >> 8;
            bits >>= 8;
            number as u8
        };
        let sentence = below(self.sentences.len());
        let count = self.spelled.len();
        // The lesser of two: the first options are said most.
        let first = below(count).min(below(count));
        let second = below(count).min(below(count));
        let mut saying = Saying { sentence, options: [first, second], spellings: [below(SPELLINGS), below(SPELLINGS)] };
        let holes = self.sentences[usize::from(sentence)].len() - 1;
        saying.options[holes.min(2)..].fill(NONE);
        self.tell_apart(&mut saying);
        saying
    }

    /// Where the saying begins with `option`, it is the next one instead.
    pub(super) fn avoid(&self, saying: &mut Saying, option: u8) {
        if saying.options[0] == option && option != NONE {
            saying.options[0] = self.next(option);
            self.tell_apart(saying);
        }
    }

    fn tell_apart(&self, saying: &mut Saying) {
        if saying.options[1] == saying.options[0] && saying.options[1] != NONE {
            saying.options[1] = self.next(saying.options[1]);
        }
    }

    fn next(&self, option: u8) -> u8 {
        (option + 1) % self.spelled.len() as u8
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, saying: Saying) {
        let pieces = self.sentences[usize::from(saying.sentence)];
        out.extend_from_slice(pieces[0].as_bytes());
        for (at, piece) in pieces[1..].iter().enumerate() {
            let spelled = &self.spelled[usize::from(saying.options[at])];
            out.extend_from_slice(spelled[usize::from(saying.spellings[at])].as_bytes());
            out.extend_from_slice(piece.as_bytes());
        }
    }
}
