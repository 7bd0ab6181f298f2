//! Sets of characters: Perl's and POSIX's, which are ASCII, and Unicode's categories and scripts by Go's names.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

/// `\d`
const DIGIT: &[(u32, u32)] = &[(0x30, 0x39)];
/// `\s`: without the vertical tab.
const PERL_SPACE: &[(u32, u32)] = &[(0x09, 0x0a), (0x0c, 0x0d), (0x20, 0x20)];
/// `\w`
const WORD: &[(u32, u32)] = &[(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)];

/// The ranges of `\d`, `\s`, `\w` by their letter.
pub(super) fn perl(letter: u8) -> Option<&'static [(u32, u32)]> {
    match letter {
        b'd' => Some(DIGIT),
        b's' => Some(PERL_SPACE),
        b'w' => Some(WORD),
        _ => None,
    }
}

/// The ranges of `[:alnum:]` and its like by their name.
pub(super) fn posix(name: &[u8]) -> Option<&'static [(u32, u32)]> {
    Some(match name {
        b"alnum" => &[(0x30, 0x39), (0x41, 0x5a), (0x61, 0x7a)],
        b"alpha" => &[(0x41, 0x5a), (0x61, 0x7a)],
        b"ascii" => &[(0x00, 0x7f)],
        b"blank" => &[(0x09, 0x09), (0x20, 0x20)],
        b"cntrl" => &[(0x00, 0x1f), (0x7f, 0x7f)],
        b"digit" => DIGIT,
        b"graph" => &[(0x21, 0x7e)],
        b"lower" => &[(0x61, 0x7a)],
        b"print" => &[(0x20, 0x7e)],
        b"punct" => &[(0x21, 0x2f), (0x3a, 0x40), (0x5b, 0x60), (0x7b, 0x7e)],
        b"space" => &[(0x09, 0x0d), (0x20, 0x20)],
        b"upper" => &[(0x41, 0x5a)],
        b"word" => WORD,
        b"xdigit" => &[(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
        _ => return None,
    })
}

/// A set from ranges of code points. Surrogates are in no text, so they are left out.
pub(super) fn of_ranges(ranges: &[(u32, u32)]) -> ClassUnicode {
    let above = |c: u32| char::from_u32(c).unwrap_or('\u{e000}');
    let below = |c: u32| char::from_u32(c).unwrap_or('\u{d7ff}');
    let range = |(lo, hi): &(u32, u32)| {
        let (lo, hi) = (above(*lo), below(*hi));
        (lo <= hi).then(|| ClassUnicodeRange::new(lo, hi))
    };
    ClassUnicode::new(ranges.iter().filter_map(range))
}

/// Sets of up to this many characters are folded character by character.
pub(super) const FEW: usize = 16;

/// A set with all that differs from its characters in case only.
pub(super) fn folded(mut set: ClassUnicode) -> ClassUnicode {
    if set.ranges().iter().map(ClassUnicodeRange::len).sum::<usize>() <= FEW {
        // Fails only where the tables of case are left out of the build.
        let _ = set.try_case_fold_simple();
        return set;
    }
    let mut more = Vec::new();
    let mut ranges = set.ranges().iter();
    let mut range = ranges.next();
    for (c, others) in cased() {
        while range.is_some_and(|r| r.end() < *c) {
            range = ranges.next();
        }
        match range {
            Some(r) if r.start() <= *c => more.extend(others.iter().map(|o| ClassUnicodeRange::new(*o, *o))),
            Some(_) => {}
            None => break,
        }
    }
    set.union(&ClassUnicode::new(more));
    set
}

/// The characters that differ from others in case only, ascending, each with these.
fn cased() -> &'static [(char, Vec<char>)] {
    static TABLE: OnceLock<Vec<(char, Vec<char>)>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut out = Vec::new();
        let all = named("Changes_When_Casemapped").unwrap_or_else(ClassUnicode::empty);
        for c in all.ranges().iter().flat_map(|r| r.start()..=r.end()) {
            let mut orbit = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            let _ = orbit.try_case_fold_simple();
            let others = orbit.ranges().iter().flat_map(|r| r.start()..=r.end()).filter(|o| *o != c);
            let others: Vec<char> = others.collect();
            if !others.is_empty() {
                out.push((c, others));
            }
        }
        out
    })
}

/// A set by what `\p{…}` calls it in Rust.
fn named(name: &str) -> Option<ClassUnicode> {
    match regex_syntax::parse(&format!("\\p{{{name}}}")).ok()?.into_kind() {
        HirKind::Class(Class::Unicode(set)) => Some(set),
        // A set of one character.
        HirKind::Literal(l) => {
            let c = std::str::from_utf8(&l.0).ok()?.chars().next()?;
            Some(ClassUnicode::new([ClassUnicodeRange::new(c, c)]))
        }
        _ => None,
    }
}

/// A category or a script by its name as Go has it: exact, case and all.
pub(super) fn unicode(name: &str) -> Option<ClassUnicode> {
    if name == "Any" {
        return Some(of_ranges(&[(0, 0x10_ffff)]));
    }
    if name == "Cs" {
        return Some(ClassUnicode::empty());
    }
    let property = if CATEGORIES.binary_search(&name).is_ok() {
        "gc"
    } else if SCRIPTS.binary_search(&name).is_ok() {
        "sc"
    } else {
        return None;
    };
    named(&format!("{property}={name}"))
}

const CATEGORIES: &[&str] = &[
    "C", "Cc", "Cf", "Cn", "Co", "Cs", "L", "LC", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl",
    "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
];

const SCRIPTS: &[&str] = &[
    "Adlam",
    "Ahom",
    "Anatolian_Hieroglyphs",
    "Arabic",
    "Armenian",
    "Avestan",
    "Balinese",
    "Bamum",
    "Bassa_Vah",
    "Batak",
    "Bengali",
    "Bhaiksuki",
    "Bopomofo",
    "Brahmi",
    "Braille",
    "Buginese",
    "Buhid",
    "Canadian_Aboriginal",
    "Carian",
    "Caucasian_Albanian",
    "Chakma",
    "Cham",
    "Cherokee",
    "Chorasmian",
    "Common",
    "Coptic",
    "Cuneiform",
    "Cypriot",
    "Cypro_Minoan",
    "Cyrillic",
    "Deseret",
    "Devanagari",
    "Dives_Akuru",
    "Dogra",
    "Duployan",
    "Egyptian_Hieroglyphs",
    "Elbasan",
    "Elymaic",
    "Ethiopic",
    "Georgian",
    "Glagolitic",
    "Gothic",
    "Grantha",
    "Greek",
    "Gujarati",
    "Gunjala_Gondi",
    "Gurmukhi",
    "Han",
    "Hangul",
    "Hanifi_Rohingya",
    "Hanunoo",
    "Hatran",
    "Hebrew",
    "Hiragana",
    "Imperial_Aramaic",
    "Inherited",
    "Inscriptional_Pahlavi",
    "Inscriptional_Parthian",
    "Javanese",
    "Kaithi",
    "Kannada",
    "Katakana",
    "Kawi",
    "Kayah_Li",
    "Kharoshthi",
    "Khitan_Small_Script",
    "Khmer",
    "Khojki",
    "Khudawadi",
    "Lao",
    "Latin",
    "Lepcha",
    "Limbu",
    "Linear_A",
    "Linear_B",
    "Lisu",
    "Lycian",
    "Lydian",
    "Mahajani",
    "Makasar",
    "Malayalam",
    "Mandaic",
    "Manichaean",
    "Marchen",
    "Masaram_Gondi",
    "Medefaidrin",
    "Meetei_Mayek",
    "Mende_Kikakui",
    "Meroitic_Cursive",
    "Meroitic_Hieroglyphs",
    "Miao",
    "Modi",
    "Mongolian",
    "Mro",
    "Multani",
    "Myanmar",
    "Nabataean",
    "Nag_Mundari",
    "Nandinagari",
    "New_Tai_Lue",
    "Newa",
    "Nko",
    "Nushu",
    "Nyiakeng_Puachue_Hmong",
    "Ogham",
    "Ol_Chiki",
    "Old_Hungarian",
    "Old_Italic",
    "Old_North_Arabian",
    "Old_Permic",
    "Old_Persian",
    "Old_Sogdian",
    "Old_South_Arabian",
    "Old_Turkic",
    "Old_Uyghur",
    "Oriya",
    "Osage",
    "Osmanya",
    "Pahawh_Hmong",
    "Palmyrene",
    "Pau_Cin_Hau",
    "Phags_Pa",
    "Phoenician",
    "Psalter_Pahlavi",
    "Rejang",
    "Runic",
    "Samaritan",
    "Saurashtra",
    "Sharada",
    "Shavian",
    "Siddham",
    "SignWriting",
    "Sinhala",
    "Sogdian",
    "Sora_Sompeng",
    "Soyombo",
    "Sundanese",
    "Syloti_Nagri",
    "Syriac",
    "Tagalog",
    "Tagbanwa",
    "Tai_Le",
    "Tai_Tham",
    "Tai_Viet",
    "Takri",
    "Tamil",
    "Tangsa",
    "Tangut",
    "Telugu",
    "Thaana",
    "Thai",
    "Tibetan",
    "Tifinagh",
    "Tirhuta",
    "Toto",
    "Ugaritic",
    "Vai",
    "Vithkuqi",
    "Wancho",
    "Warang_Citi",
    "Yezidi",
    "Yi",
    "Zanabazar_Square",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_by_table_is_folding_by_character() {
        assert!(cased().len() > 2500 && cased().is_sorted());
        for ranges in [&[(0x41, 0x5a), (0x300, 0x3ff)][..], &[(0, 0x2000)], &[(0x1c80, 0x1e943)], &[(0x20, 0x40)]] {
            let mut slow = of_ranges(ranges);
            slow.try_case_fold_simple().unwrap();
            assert_eq!(folded(of_ranges(ranges)), slow);
        }
        let mut all = of_ranges(&[(0, 0x10_ffff)]);
        all.difference(&ClassUnicode::new(cased().iter().map(|(c, _)| ClassUnicodeRange::new(*c, *c))));
        let mut folded = all.clone();
        folded.try_case_fold_simple().unwrap();
        assert_eq!(folded, all, "a character with another case is missing");
    }

    #[test]
    fn every_name_has_a_table() {
        assert!(CATEGORIES.is_sorted() && SCRIPTS.is_sorted());
        for name in CATEGORIES.iter().chain(SCRIPTS) {
            assert!(unicode(name).is_some(), "{name}");
        }
        assert!(unicode("han").is_none() && unicode("Alphabetic").is_none() && unicode("").is_none());
    }
}
