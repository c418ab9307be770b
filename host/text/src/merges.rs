//! Finds the merges that a list of ranked tokens was trained with: a token's parents are what its bytes become when
//! only tokens of lower ranks may be made.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The two tokens that are merged to this one; `None` if more than two are left, so that no text can become it.
pub(crate) fn parents<T>(token: &[u8], rank: u32, ranks: &HashMap<T, u32>) -> Option<(u32, u32)>
where
    T: Borrow<[u8]> + Hash + Eq,
{
    // Where the parts begin, and after the last of them the token's end.
    let mut bounds: Vec<usize> = (0..=token.len()).collect();
    let merged = |bounds: &[usize], at: usize| match (bounds.get(at), bounds.get(at + 2)) {
        (Some(&begin), Some(&end)) => ranks.get(&token[begin..end]).copied().filter(|&found| found < rank),
        _ => None,
    };
    // What each part makes with the next.
    let mut pairs: Vec<Option<u32>> = (0..token.len()).map(|at| merged(&bounds, at)).collect();
    while bounds.len() > 3 {
        let (_, at) = pairs.iter().zip(0..).filter_map(|(pair, at)| Some(((*pair)?, at))).min()?;
        bounds.remove(at + 1);
        pairs.remove(at + 1);
        pairs[at] = merged(&bounds, at);
        if let Some(before) = at.checked_sub(1) {
            pairs[before] = merged(&bounds, before);
        }
    }
    let &[begin, middle, end] = bounds.as_slice() else { return None };
    Some((*ranks.get(&token[begin..middle])?, *ranks.get(&token[middle..end])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_in_the_order_of_the_ranks() {
        let tokens = ["a", "b", "c", "bc", "ab", "abc", "aa", "aaa", "abcab", "cc", "bcc"];
        let ranks: HashMap<&[u8], u32> = tokens.iter().map(|token| token.as_bytes()).zip(0..).collect();
        let check = |token: &str, expected: Option<(&str, &str)>| {
            let rank = ranks[token.as_bytes()];
            let found = parents(token.as_bytes(), rank, &ranks);
            let names = found.map(|(left, right)| (tokens[left as usize], tokens[right as usize]));
            assert_eq!(names, expected, "{token}");
        };
        check("ab", Some(("a", "b")));
        // Not `ab` and `c`: `bc` is older.
        check("abc", Some(("a", "bc")));
        check("aaa", Some(("aa", "a")));
        check("abcab", Some(("abc", "ab")));
        check("bcc", Some(("bc", "c")));
        check("a", None);
        let orphan = b"abcb".as_slice();
        assert_eq!(parents(orphan, 20, &ranks), Some((5, 1)));
        assert_eq!(parents(b"cbcba", 20, &ranks), None);
    }
}
