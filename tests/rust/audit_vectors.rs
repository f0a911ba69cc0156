//! Published vectors of what the audit log is built on: Merkle proofs (transparency-dev), and Wycheproof's of the ciphers,
//! signatures and key derivation, each through the function that the log calls.
//!
//! They are read from `ISOLANE_VECTORS`, or `../shared/vectors`; without them the tests say so and pass, unless
//! `ISOLANE_REQUIRE_ALL` is set. The modules have a few of their own beside their code.

#![allow(clippy::print_stderr, clippy::unwrap_used, missing_docs)] // a test says what it left out, and may fail anywhere

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use isolane::audit::keys;
use isolane::audit::merkle::{Hash, verify_consistency, verify_inclusion};
use serde_json::Value;
use sha2::Sha256;

fn vectors(of: &str) -> Option<PathBuf> {
    let base = std::env::var_os("ISOLANE_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"),
        PathBuf::from,
    );
    let path = base.join(of);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("ISOLANE_REQUIRE_ALL").is_none(),
        "the vectors {of} are not in {}: set ISOLANE_VECTORS",
        base.display()
    );
    eprintln!("SKIPPED: the vectors {of} are not there");
    None
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
}

fn cases(of: &str) -> Vec<(String, Value)> {
    let Some(folder) = vectors(of) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    files(&folder, &mut found);
    assert!(found.len() > 90, "{} cases", found.len());
    let read = |path: PathBuf| {
        (
            path.display().to_string(),
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap(),
        )
    };
    found.into_iter().map(read).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    value
        .as_str()
        .map_or_else(Vec::new, |text| BASE64.decode(text).unwrap())
}

/// The proof; `None` when one of its hashes is none, which no typed caller can pass on.
fn proof(value: &Value) -> Option<Vec<Hash>> {
    let hashes = value.as_array().into_iter().flatten();
    hashes.map(|hash| bytes(hash).try_into().ok()).collect()
}

#[test]
fn inclusion_proofs_are_judged_as_published() {
    for (name, case) in cases("merkle/inclusion") {
        let number = |key: &str| case[key].as_u64().unwrap();
        let accepted = proof(&case["proof"]).is_some_and(|proof| {
            let (leaf, root) = (bytes(&case["leafHash"]), bytes(&case["root"]));
            verify_inclusion(&leaf, number("leafIdx"), number("treeSize"), &proof, &root)
        });
        assert_eq!(accepted, !case["wantErr"].as_bool().unwrap(), "{name}");
    }
}

#[test]
fn consistency_proofs_are_judged_as_published() {
    for (name, case) in cases("merkle/consistency") {
        let number = |key: &str| case[key].as_u64().unwrap();
        let accepted = proof(&case["proof"]).is_some_and(|proof| {
            let (first, second) = (bytes(&case["root1"]), bytes(&case["root2"]));
            verify_consistency(number("size1"), number("size2"), &proof, &first, &second)
        });
        assert_eq!(accepted, !case["wantErr"].as_bool().unwrap(), "{name}");
    }
}

fn wycheproof(file: &str, least: usize, mut judge: impl FnMut(&Value, &Value) -> bool) {
    let Some(path) = vectors("wycheproof") else {
        return;
    };
    let suite: Value = serde_json::from_slice(&fs::read(path.join(file)).unwrap()).unwrap();
    let mut judged = 0;
    for group in suite["testGroups"].as_array().unwrap() {
        for case in group["tests"].as_array().unwrap() {
            let valid = case["result"] == "valid";
            assert_eq!(
                judge(group, case),
                valid,
                "{file} {}: {}",
                case["tcId"],
                case["comment"]
            );
            judged += 1;
        }
    }
    assert!(judged >= least, "{judged} cases");
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

#[test]
fn the_cipher_does_what_wycheproof_says() {
    wycheproof("xchacha20_poly1305_test.json", 300, |_, case| {
        let field = |name: &str| hex(&case[name]);
        let (Ok(key), Ok(nonce)) = (field("key").try_into(), field("iv").try_into()) else {
            return false; // a nonce of another length, which no typed caller can pass on
        };
        let (aad, message) = (field("aad"), field("msg"));
        let Ok(tag) = field("tag").try_into() else {
            return false;
        };
        let mut opened = field("ct");
        let is_open = keys::open(&key, &nonce, &aad, &mut opened, &tag) && opened == message;
        let mut sealed = message;
        let sealed_tag = keys::seal(&key, &nonce, &aad, &mut sealed);
        is_open && sealed_tag == tag && sealed == field("ct")
    });
}

#[test]
fn signatures_are_judged_as_wycheproof_says() {
    wycheproof("ed25519_test.json", 150, |group, case| {
        let key: [u8; 32] = hex(&group["publicKey"]["pk"]).try_into().unwrap();
        let key = VerifyingKey::from_bytes(&key).unwrap();
        Signature::from_slice(&hex(&case["sig"]))
            .is_ok_and(|signature| key.verify_strict(&hex(&case["msg"]), &signature).is_ok())
    });
}

#[test]
fn keys_are_derived_as_wycheproof_says() {
    wycheproof("hkdf_sha256_test.json", 80, |_, case| {
        let mut out = vec![0; usize::try_from(case["size"].as_u64().unwrap()).unwrap()];
        let salt = hex(&case["salt"]);
        let expanded = Hkdf::<Sha256>::new(Some(&salt), &hex(&case["ikm"])).expand(&hex(&case["info"]), &mut out);
        expanded.is_ok() && out == hex(&case["okm"])
    });
}
