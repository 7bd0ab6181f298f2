//! Sets of series numbers, from one to millions.

use roaring::RoaringBitmap;

/// A growing set. Most pairs of a label with many values belong to few series: those cost no bitmap.
#[derive(Clone, Debug)]
pub enum Postings {
    /// One series.
    One(u32),
    /// A few, ascending.
    Few(Vec<u32>),
    /// Many.
    Many(Box<RoaringBitmap>),
}

const FEW_MAX: usize = 24;

impl Postings {
    /// Adds a series.
    pub fn insert(&mut self, id: u32) {
        match self {
            Postings::One(one) if *one == id => {}
            Postings::One(one) => *self = Postings::Few(vec![id.min(*one), id.max(*one)]),
            Postings::Few(ids) => {
                let at = ids.partition_point(|x| *x < id);
                if ids.get(at) == Some(&id) {
                    return;
                }
                if ids.len() < FEW_MAX {
                    ids.insert(at, id);
                } else {
                    let mut many: RoaringBitmap = ids.iter().copied().collect();
                    many.insert(id);
                    *self = Postings::Many(Box::new(many));
                }
            }
            Postings::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    /// Takes a series out; whether the set is empty now.
    pub fn remove(&mut self, id: u32) -> bool {
        match self {
            Postings::One(one) => *one == id,
            Postings::Few(ids) => {
                ids.retain(|x| *x != id);
                ids.is_empty()
            }
            Postings::Many(ids) => {
                ids.remove(id);
                ids.is_empty()
            }
        }
    }

    /// Borrows.
    pub fn as_ref(&self) -> PostingsRef<'_> {
        match self {
            Postings::One(id) => PostingsRef::Ids(std::slice::from_ref(id)),
            Postings::Few(ids) => PostingsRef::Ids(ids),
            Postings::Many(ids) => PostingsRef::Bitmap(ids),
        }
    }
}

/// A set to combine with others.
#[derive(Debug)]
pub enum PostingsRef<'a> {
    /// Ascending numbers.
    Ids(&'a [u32]),
    /// Ascending numbers, read from bytes.
    List(Vec<u32>),
    /// A bitmap.
    Bitmap(&'a RoaringBitmap),
    /// A bitmap read from bytes.
    Owned(RoaringBitmap),
    /// From the first to before the second.
    Range(u32, u32),
}

impl PostingsRef<'_> {
    /// The empty set.
    pub const EMPTY: PostingsRef<'static> = PostingsRef::Range(0, 0);

    /// Number of series.
    pub fn len(&self) -> u64 {
        match self {
            PostingsRef::Ids(ids) => ids.len() as u64,
            PostingsRef::List(ids) => ids.len() as u64,
            PostingsRef::Bitmap(b) => b.len(),
            PostingsRef::Owned(b) => b.len(),
            PostingsRef::Range(a, b) => u64::from(b.saturating_sub(*a)),
        }
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds it to `into`.
    pub fn union_into(&self, into: &mut RoaringBitmap) {
        match self {
            PostingsRef::Ids(ids) => into.extend(ids.iter().copied()),
            PostingsRef::List(ids) => into.extend(ids.iter().copied()),
            PostingsRef::Bitmap(b) => *into |= *b,
            PostingsRef::Owned(b) => *into |= b,
            PostingsRef::Range(a, b) => {
                into.insert_range(*a..*b);
            }
        }
    }

    /// Takes it out of `from`.
    pub fn subtract_from(&self, from: &mut RoaringBitmap) {
        match self {
            PostingsRef::Ids(ids) => ids.iter().for_each(|id| {
                from.remove(*id);
            }),
            PostingsRef::List(ids) => ids.iter().for_each(|id| {
                from.remove(*id);
            }),
            PostingsRef::Bitmap(b) => *from -= *b,
            PostingsRef::Owned(b) => *from -= b,
            PostingsRef::Range(a, b) => {
                from.remove_range(*a..*b);
            }
        }
    }

    /// Leaves in `into` what is in both.
    pub fn intersect_into(&self, into: &mut RoaringBitmap) {
        let keep = |ids: &[u32], into: &RoaringBitmap| ids.iter().copied().filter(|id| into.contains(*id)).collect();
        match self {
            PostingsRef::Ids(ids) => *into = keep(ids, into),
            PostingsRef::List(ids) => *into = keep(ids, into),
            PostingsRef::Bitmap(b) => *into &= *b,
            PostingsRef::Owned(b) => *into &= b,
            PostingsRef::Range(a, b) => {
                into.remove_range(..*a);
                into.remove_range(*b..);
            }
        }
    }

    /// Has it one in common with `other`?
    pub fn intersects(&self, other: &RoaringBitmap) -> bool {
        match self {
            PostingsRef::Ids(ids) => ids.iter().any(|id| other.contains(*id)),
            PostingsRef::List(ids) => ids.iter().any(|id| other.contains(*id)),
            PostingsRef::Bitmap(b) => !b.is_disjoint(other),
            PostingsRef::Owned(b) => !b.is_disjoint(other),
            PostingsRef::Range(a, b) => a < b && other.range_cardinality(*a..*b) > 0,
        }
    }

    /// Is `test` true of any of them? Asks in order and stops at the first.
    pub fn any(&self, mut test: impl FnMut(u32) -> bool) -> bool {
        match self {
            PostingsRef::Ids(ids) => ids.iter().any(|id| test(*id)),
            PostingsRef::List(ids) => ids.iter().any(|id| test(*id)),
            PostingsRef::Bitmap(b) => b.iter().any(test),
            PostingsRef::Owned(b) => b.iter().any(test),
            PostingsRef::Range(from, to) => (*from..*to).any(test),
        }
    }

    /// As a bitmap.
    pub fn to_bitmap(&self) -> RoaringBitmap {
        match self {
            PostingsRef::Bitmap(b) => (*b).clone(),
            PostingsRef::Owned(b) => b.clone(),
            other => {
                let mut out = RoaringBitmap::new();
                other.union_into(&mut out);
                out
            }
        }
    }
}
