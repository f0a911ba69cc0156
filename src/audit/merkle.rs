//! The Merkle tree of RFC 6962: hashes, the tree as it grows, proofs and their verification (RFC 9162, 2.1).

use sha2::{Digest, Sha256};

use crate::mutants::mutant;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The hash of a leaf. Its prefix keeps a leaf from being shown as an inner node.
pub fn leaf_hash(content: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    if !mutant!(LeafWithoutPrefix) {
        hasher.update([0]);
    }
    hasher.update(content);
    hasher.finalize().into()
}

/// The hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The right edge of a tree: enough to append to it and to know its root. One hash for each bit of the size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The roots of the complete subtrees, the largest first.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The edge of a tree of that size, when there is one hash for each bit of it.
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes, for storing.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("one peak for each bit of the size");
            hash = node_hash(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Sha256::digest([]).into();
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The root over leaves by their hashes.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut tree = Frontier::default();
    for leaf in leaves {
        tree.push(*leaf);
    }
    tree.root()
}

/// The largest power of two below `n`, which is at least 2.
fn split(n: usize) -> usize {
    1 << (n - 1).ilog2()
}

/// Proves that the leaf of that index is in the tree over `leaves`. `None` when there is no such leaf.
pub fn inclusion_proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    fn path(leaves: &[Hash], index: usize, proof: &mut Vec<Hash>) {
        if leaves.len() < 2 {
            return;
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        if index < left.len() {
            path(left, index, proof);
            proof.push(root(right));
        } else {
            path(right, index - left.len(), proof);
            proof.push(root(left));
        }
    }
    let mut proof = Vec::new();
    (index < leaves.len()).then(|| path(leaves, index, &mut proof))?;
    Some(proof)
}

/// Proves that the tree over the first `size` leaves is a prefix of that over all. `None` unless 0 < `size` ≤ their number.
pub fn consistency_proof(leaves: &[Hash], size: usize) -> Option<Vec<Hash>> {
    fn subproof(leaves: &[Hash], size: usize, whole: bool, proof: &mut Vec<Hash>) {
        if size == leaves.len() {
            if !whole {
                proof.push(root(leaves));
            }
            return;
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        if size <= left.len() {
            subproof(left, size, whole, proof);
            proof.push(root(right));
        } else {
            subproof(right, size - left.len(), false, proof);
            proof.push(root(left));
        }
    }
    let mut proof = Vec::new();
    (size > 0 && size <= leaves.len()).then(|| subproof(leaves, size, true, &mut proof))?;
    Some(proof)
}

/// Whether the proof shows that the leaf is number `index` of the tree of that size and root.
pub fn verify_inclusion(leaf: &[u8], index: u64, size: u64, proof: &[Hash], root: &[u8]) -> bool {
    if index >= size {
        return false;
    }
    let Ok(mut hash) = Hash::try_from(leaf) else {
        return false;
    };
    let (mut node, mut last) = (index, size - 1);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// Whether the proof shows that the first tree is a prefix of the second. An empty first tree is a prefix of any, which no
/// proof can show: that is refused.
pub fn verify_consistency(first: u64, second: u64, proof: &[Hash], root1: &[u8], root2: &[u8]) -> bool {
    if first == 0 || first > second {
        return false;
    }
    if first == second {
        return proof.is_empty() && root1 == root2;
    }
    let Ok(first_root) = Hash::try_from(root1) else {
        return false;
    };
    let mut path = proof.iter();
    let seed = if first.is_power_of_two() {
        Some(&first_root)
    } else {
        path.next()
    };
    let Some(seed) = seed.filter(|_| !proof.is_empty()) else {
        return false;
    };
    let (mut node, mut last) = (first - 1, second - 1);
    let complete = node.trailing_ones();
    node >>= complete;
    last >>= complete;
    let (mut old, mut new) = (*seed, *seed);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old == first_root && new == root2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|at| leaf_hash(&at.to_be_bytes())).collect()
    }

    /// RFC 6962's own example inputs, with the roots that the reference implementations of certificate transparency publish.
    #[test]
    fn the_published_roots_come_out() {
        let inputs: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let hashes: Vec<Hash> = inputs.iter().map(|input| leaf_hash(input)).collect();
        let hex = |hash: Hash| {
            let mut out = String::new();
            crate::audit::checkpoint::hex(&mut out, &hash);
            out
        };
        assert_eq!(
            hex(root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            hex(root(&hashes[..1])),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            hex(root(&hashes)),
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
    }

    proptest! {
        #[test]
        fn proofs_verify_and_nothing_else_does(size in 1_usize..70, at in 0_usize..70, bit in 0_usize..256, which in 0_usize..9) {
            let all = leaves(size);
            let place = at % size;
            let whole = root(&all);
            let proof = inclusion_proof(&all, place).expect("the leaf exists");
            let (index, size) = (place as u64, size as u64);
            let leaf = all[place];
            prop_assert!(verify_inclusion(&leaf, index, size, &proof, &whole));
            prop_assert!(!verify_inclusion(&leaf, index + 1, size, &proof, &whole));
            prop_assert!(!verify_inclusion(&node_hash(&leaf, &leaf), index, size, &proof, &whole));
            if !proof.is_empty() {
                let mut wrong = proof.clone();
                let at = which % proof.len();
                wrong[at][bit / 8] ^= 1 << (bit % 8);
                prop_assert!(!verify_inclusion(&leaf, index, size, &wrong, &whole));
                prop_assert!(!verify_inclusion(&leaf, index, size, &proof[1..], &whole));
            }
            let early = root(&all[..=place]);
            let proof = consistency_proof(&all, place + 1).expect("it is a prefix");
            let first = index + 1;
            prop_assert!(verify_consistency(first, size, &proof, &early, &whole));
            prop_assert!(!verify_consistency(first, size, &proof, &leaf_hash(&early), &whole));
            if first != size {
                prop_assert!(!verify_consistency(first, size, &proof, &early, &early));
            }
        }

        #[test]
        fn a_growing_tree_has_the_root_of_the_whole(size in 0_usize..300) {
            fn recursive(leaves: &[Hash]) -> Hash {
                match leaves {
                    [] => Sha256::digest([]).into(),
                    [one] => *one,
                    more => {
                        let (left, right) = more.split_at(split(more.len()));
                        node_hash(&recursive(left), &recursive(right))
                    }
                }
            }
            let all = leaves(size);
            prop_assert_eq!(root(&all), recursive(&all));
        }
    }
}
