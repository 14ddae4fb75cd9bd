//! Text without case: what makes two tokens one.

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_normalizer::{
    ComposingNormalizer, ComposingNormalizerBorrowed, DecomposingNormalizer, DecomposingNormalizerBorrowed,
};
use writeable::Writeable;

const CASE: CaseMapperBorrowed = CaseMapper::new();
const NFC: ComposingNormalizerBorrowed = ComposingNormalizer::new_nfc();
const NFD: DecomposingNormalizerBorrowed = DecomposingNormalizer::new_nfd();

/// Folds text and keeps the memory for it.
///
/// Two texts fold to the same where they are a canonical caseless match: full default case folding
/// (so ß and SS are one, and σ and ς), then composition (so é is one, however it is written). Beyond that
/// - format characters that nobody sees are left out: soft hyphens, joiners, marks of direction,
///   variation selectors (❤ and ❤️ are one). The tags that tell England's flag from Scotland's stay;
/// - ’ is ', ＋ is + and ＃ is #: keyboards choose between them, not people;
/// - a dot over an i is left out. Full folding makes i and such a dot of İ, so without this neither
///   `istanbul` nor `ISTANBUL` would be İSTANBUL. The dotless ı remains a letter of its own, so that
///   `ISPARTA` is `isparta`, as everywhere but in Turkic languages, and not `ısparta`.
#[derive(Default)]
pub(super) struct Fold {
    plain: String,
    folded: String,
    spare: String,
}

impl Fold {
    /// `text` folded; good until the next call.
    pub(super) fn fold<'t>(&'t mut self, text: &'t str) -> &'t str {
        if text.chars().all(is_folded) {
            return text;
        }
        self.plain.clear();
        self.plain.extend(text.chars().filter_map(plain));
        // Unicode 17, D145: decomposition must go before folding where an iota subscript is about, and
        // only there, because it is a mark that folds to a letter.
        if self.plain.contains(has_iota_below) {
            let decomposed = NFD.normalize(&self.plain).into_owned();
            self.plain = decomposed;
        }
        self.folded.clear();
        // Writing to a string does not fail.
        let _ = CASE.fold(&self.plain).write_to(&mut self.folded);
        self.compose();
        if self.folded.contains(DOTTED) {
            self.folded = self.folded.replace(DOTTED, "i");
            self.compose();
        }
        &self.folded
    }

    fn compose(&mut self) {
        if !NFC.is_normalized(&self.folded) {
            self.spare.clear();
            let _ = NFC.normalize_to(&self.folded, &mut self.spare);
            std::mem::swap(&mut self.folded, &mut self.spare);
        }
    }
}

/// Whether `c` is the same folded, whatever stands next to it: of the letters that are, those that make up
/// most words.
fn is_folded(c: char) -> bool {
    matches!(c,
        'a'..='z' | '0'..='9' | '+' | '#' | '_'
        | 'α'..='ρ' | 'σ'..='ω' | 'а'..='џ' | 'א'..='ת' | '\u{621}'..='\u{63A}' | '\u{641}'..='\u{64A}'
        | '\u{904}'..='\u{939}' | 'ก'..='ะ' | 'ぁ'..='ゖ' | 'ァ'..='ヺ' | '一'..='鿿' | '가'..='힣')
}

/// An i with a dot above it.
const DOTTED: &str = "i\u{307}";

fn has_iota_below(c: char) -> bool {
    matches!(c, '\u{345}' | '\u{1F80}'..='\u{1FFC}')
}

/// The character that stands for `c`; none for one that nobody sees.
fn plain(c: char) -> Option<char> {
    match c {
        '\u{AD}'
        | '\u{34F}'
        | '\u{61C}'
        | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}'
        | '\u{FE00}'..='\u{FE0F}'
        | '\u{FEFF}'
        | '\u{E0100}'..='\u{E01EF}' => None,
        '’' => Some('\''),
        '＋' => Some('+'),
        '＃' => Some('#'),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(text: &str) -> String {
        Fold::default().fold(text).to_owned()
    }

    #[test]
    fn every_character_folds_as_its_decomposition_does() {
        let mut folder = Fold::default();
        for c in '\0'..=char::MAX {
            let decomposed = NFD.normalize(c.encode_utf8(&mut [0; 4])).into_owned();
            let folded = folder.fold(&decomposed).to_owned();
            assert_eq!(folder.fold(c.encode_utf8(&mut [0; 4])), folded, "{c:?}");
            assert!(NFC.is_normalized(&folded), "{c:?}");
            let again = folder.fold(&folded).to_owned();
            assert_eq!(again, folded, "folding {c:?} twice");
        }
    }

    #[test]
    fn letters_that_are_left_as_they_are_fold_to_themselves_next_to_anything() {
        let unchanged: Vec<char> = ('\0'..=char::MAX).filter(|c| is_folded(*c)).collect();
        assert!(unchanged.len() > 30_000);
        for c in &unchanged {
            let c = c.to_string();
            assert_eq!((CASE.fold_string(&c), NFC.normalize(&c)), ((&*c).into(), (&*c).into()));
        }
        // What is joined to the character before it is not the first of a decomposition.
        for c in '\0'..=char::MAX {
            let decomposed = NFD.normalize(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(!decomposed.chars().skip(1).any(is_folded), "{c:?}");
        }
    }

    #[test]
    fn case_is_none_in_any_script() {
        for (a, b) in [
            ("Straße", "STRASSE"),
            ("Straẞe", "strasse"),
            ("ΟΔΥΣΣΕΥΣ", "Οδυσσεύς".replace('ύ', "υ").as_str()),
            ("МОСКВА", "Москва"),
            ("ԵՐԵՒԱՆ", "երևան"),
            ("Ⴀ", "ⴀ"),
            ("ｃ", "Ｃ"),
            ("ᾼ", "αι"),
        ] {
            assert_eq!(fold(a), fold(b), "{a} and {b}");
        }
    }

    #[test]
    fn composed_and_decomposed_are_one() {
        assert_eq!(fold("CAFE\u{301}"), fold("café"));
        assert_eq!(fold("\u{1112}\u{1161}\u{11ab}"), fold("한"));
        assert_eq!(fold("\u{212B}"), fold("å"));
        assert_eq!(fold("q\u{307}\u{323}"), fold("q\u{323}\u{307}"));
    }

    #[test]
    fn the_turkish_capital_with_a_dot_is_an_i_and_the_small_letter_without_a_dot_is_not() {
        assert_eq!(fold("İSTANBUL"), "istanbul");
        assert_eq!(fold("I\u{307}stanbul"), "istanbul");
        assert_eq!(fold("ISTANBUL"), "istanbul");
        assert_ne!(fold("ısparta"), fold("ISPARTA"));
        assert_eq!(fold("i\u{307}\u{301}"), "í");
        assert_eq!(fold("i\u{307}\u{323}"), fold("i\u{323}\u{307}"));
    }

    #[test]
    fn what_nobody_sees_does_not_matter() {
        assert_eq!(fold("\u{200F}שלום\u{200E}"), "שלום");
        assert_eq!(fold("می\u{200C}خواهم"), fold("میخواهم"));
        assert_eq!(fold("ta\u{AD}ble"), "table");
        assert_eq!(fold("❤️"), "❤");
        assert_ne!(fold("🏴󠁧󠁢󠁥󠁮󠁧󠁿"), fold("🏴󠁧󠁢󠁳󠁣󠁴󠁿"));
    }
}
