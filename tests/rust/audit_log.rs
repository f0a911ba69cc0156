//! The audit log on a real disk: what is done to its files is found, and a write that was cut short is recovered from.

#![allow(clippy::unwrap_used, missing_docs)] // a test may fail anywhere

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use isolane::audit::chain::chain_path;
use isolane::audit::content;
use isolane::audit::frame::{self, Frame};
use isolane::audit::intake::Status;
use isolane::audit::keys::{self, Kek, UserKey};
use isolane::audit::keystore::{Held, KeyRing};
use isolane::audit::log::{LogSettings, keystore_path};
use isolane::audit::merkle::{leaf_hash, verify_inclusion};
use isolane::audit::reading::{Body, Reader, Wanted};
use isolane::audit::segment::{SegmentHead, leaves_path, notes_path, segments};
use isolane::audit::verify::{Against, Verified, verify};
use isolane::audit::{AuditClass, AuditError, AuditLog, Entry, Severity, checkpoint};
use isolane::clock::{Clock, SystemClock};
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let mut name = String::from("isolane-audit-test-");
        checkpoint::hex(&mut name, &keys::random::<8>());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A copy of a log, to do something to.
    fn copy_of(log: &Path) -> Self {
        fn copy(from: &Path, to: &Path) {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap() {
                let path = entry.unwrap().path();
                let to = to.join(path.file_name().unwrap());
                if path.is_dir() {
                    copy(&path, &to);
                } else {
                    fs::copy(&path, &to).unwrap();
                }
            }
        }
        let folder = Self::new();
        copy(log, &folder.0);
        folder
    }

    fn chain(&self) -> PathBuf {
        chain_path(&self.0, 1)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn kek() -> Kek {
    Kek::new(&[5; 32]).unwrap()
}

/// Small, so that a short log has many checkpoints and segments.
fn settings() -> LogSettings {
    let mut settings = LogSettings::default();
    settings.chain.checkpoint_records = 8;
    settings.chain.segment_bytes = 2_800;
    settings.intake.linger = Duration::from_millis(1);
    // A busy machine is no sick disk.
    settings.intake.patience = u64::MAX;
    settings
}

fn open(path: &Path) -> Result<AuditLog, AuditError> {
    AuditLog::open(path, &kek(), &settings(), Arc::new(SystemClock))
}

fn entry(class: AuditClass, user: Option<&str>, text: &str) -> Entry {
    let now = SystemClock.now();
    Entry {
        class,
        severity: Severity::Info,
        user: user.map(Box::from),
        body: content::body("tested", user, "now", &format!("{text:?}")),
        unix: now.unix,
        taken: now.monotonic,
    }
}

fn fill(log: &AuditLog, count: usize) {
    for number in 0..count {
        let user = ["ann", "bob", "cem"][number % 3];
        let user = (number % 7 != 0).then_some(user);
        let text = format!("secret-{}-{number}", user.unwrap_or("nobody"));
        log.offer(entry(AuditClass::Permission, user, &text)).unwrap();
    }
}

/// A log of 61 records that was closed, made once.
fn closed() -> &'static Path {
    static LOG: OnceLock<Folder> = OnceLock::new();
    &LOG.get_or_init(|| {
        let folder = Folder::new();
        let mut settings = settings();
        // Nothing is written before the close, so that the commits are always the same ones.
        settings.intake.linger = PATIENCE;
        let log = AuditLog::open(&folder.0, &kek(), &settings, Arc::new(SystemClock)).unwrap();
        fill(&log, 60);
        assert_eq!(log.close(PATIENCE), Some(0));
        let (last, _) = segments(&folder.chain()).unwrap().pop().unwrap();
        assert!(
            (40..60).contains(&last),
            "the last segment has some records: it begins with {last}"
        );
        folder
    })
    .0
}

fn with_keys(log: &Path) -> Result<Verified, AuditError> {
    let ring = KeyRing::read(&keystore_path(log), &kek())?;
    let against = Against {
        ring: Some(&ring),
        ..Against::default()
    };
    verify(log, &against)
}

/// The first record that is not as it was written.
fn first_bad(log: &Path) -> Option<u64> {
    with_keys(log).unwrap().tampered.map(|tampered| tampered.seq)
}

/// Where each record is: the segment, and from where to where.
fn records(chain: &Path) -> Vec<(PathBuf, usize, usize)> {
    let mut found = Vec::new();
    for (_, path) in segments(chain).unwrap() {
        let bytes = fs::read(&path).unwrap();
        let (_, mut at) = SegmentHead::read(&bytes).unwrap();
        while at < bytes.len() {
            let length = Frame::parse(&bytes[at..]).unwrap().bytes.len();
            found.push((path.clone(), at, at + length));
            at += length;
        }
    }
    found
}

fn flip(path: &Path, bit: usize) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let bit = bit % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
    bit / 8
}

#[test]
fn an_untouched_log_verifies_with_and_without_its_keys() {
    let found = with_keys(closed()).unwrap();
    assert_eq!(found.tampered, None);
    assert_eq!((found.records, found.signed, found.opened), (61, 61, 61));
    assert!(found.checkpoints >= 7);
    assert!(segments(&chain_path(closed(), 1)).unwrap().len() > 2);
    let blind = verify(closed(), &Against::default()).unwrap();
    assert_eq!((blind.tampered, blind.opened, blind.records), (None, 0, 61));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn any_bit_of_a_segment_is_missed_at_its_record(which in any::<usize>(), bit in any::<usize>(), blind in any::<bool>()) {
        let log = Folder::copy_of(closed());
        let all = segments(&log.chain()).unwrap();
        let (first, path) = &all[which % all.len()];
        let places = records(&log.chain());
        let at = flip(path, bit);
        let expected = places.iter().position(|(of, from, to)| of == path && (*from..*to).contains(&at));
        let expected = expected.map_or(*first, |seq| seq as u64);
        let found = if blind { verify(&log.0, &Against::default()).unwrap() } else { with_keys(&log.0).unwrap() };
        prop_assert_eq!(found.tampered.map(|tampered| tampered.seq), Some(expected));
    }

    #[test]
    fn any_bit_beside_the_segments_is_found(which in 0_usize..4, segment in any::<usize>(), bit in any::<usize>()) {
        let log = Folder::copy_of(closed());
        let all = segments(&log.chain()).unwrap();
        let (first, path) = &all[segment % all.len()];
        match which {
            0 => {
                let at = flip(&leaves_path(path), bit);
                prop_assert_eq!(first_bad(&log.0), Some(first + at as u64 / 32));
            }
            1 => {
                flip(&notes_path(&log.chain()), bit);
                prop_assert!(first_bad(&log.0).is_some());
            }
            2 => {
                let path = log.chain().join("verifier");
                // The end of the line is no part of the key.
                let bits = (fs::read(&path).unwrap().len() - 1) * 8;
                flip(&path, bit % bits);
                prop_assert!(first_bad(&log.0).is_some());
            }
            _ => {
                let path = keystore_path(&log.0);
                let bytes = fs::read(&path).unwrap().len();
                // Eight bytes of the head are padding.
                let bit = bit % ((bytes - 8) * 8);
                flip(&path, if bit < 120 * 8 { bit } else { bit + 64 });
                let found = with_keys(&log.0);
                prop_assert!(found.is_err() || found.unwrap().tampered.is_some());
            }
        }
    }

    #[test]
    fn a_record_that_is_dropped_doubled_or_moved_is_named(seq in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), what in 0..3) {
        let log = Folder::copy_of(closed());
        let places = records(&log.chain());
        let seq = seq.index(places.len());
        let (path, from, to) = places[seq].clone();
        let mut bytes = fs::read(&path).unwrap();
        let record = bytes[from..to].to_vec();
        let expected = match what {
            0 => {
                bytes.drain(from..to);
                seq
            }
            1 => {
                bytes.splice(to..to, record);
                seq + 1
            }
            _ => {
                // With another record of the same segment.
                let of_it: Vec<usize> = (0..places.len()).filter(|at| places[*at].0 == path).collect();
                let other = of_it[other.index(of_it.len())];
                prop_assume!(other != seq);
                let (first, second) = (seq.min(other), seq.max(other));
                let (early, late) = (&places[first], &places[second]);
                let mut swapped = bytes[..early.1].to_vec();
                swapped.extend_from_slice(&bytes[late.1..late.2]);
                swapped.extend_from_slice(&bytes[early.2..late.1]);
                swapped.extend_from_slice(&bytes[early.1..early.2]);
                swapped.extend_from_slice(&bytes[late.2..]);
                bytes = swapped;
                first
            }
        };
        fs::write(&path, bytes).unwrap();
        prop_assert_eq!(first_bad(&log.0), Some(expected as u64));
    }

    #[test]
    fn a_log_that_is_cut_off_anywhere_is_found(cut in any::<prop::sample::Index>()) {
        let log = Folder::copy_of(closed());
        let places = records(&log.chain());
        let (last, first_in_last) = {
            let all = segments(&log.chain()).unwrap();
            let (first, path) = all.last().unwrap().clone();
            (path, usize::try_from(first).unwrap())
        };
        let bytes = fs::read(&last).unwrap();
        let begin = places[first_in_last].1;
        let cut = begin + cut.index(bytes.len() - begin);
        fs::write(&last, &bytes[..cut]).unwrap();
        let expected = places.iter().skip(first_in_last).position(|(_, _, to)| cut < *to).unwrap() + first_in_last;
        prop_assert_eq!(first_bad(&log.0), Some(expected as u64));
        // Nor does it go on as if nothing were.
        prop_assert!(matches!(open(&log.0), Err(AuditError::Tampered(found)) if found.seq == expected as u64));
    }

    #[test]
    fn a_record_under_the_key_of_another_user_is_named(seq in any::<prop::sample::Index>(), tree in any::<bool>()) {
        let log = Folder::copy_of(closed());
        let ring = KeyRing::read(&keystore_path(&log.0), &kek()).unwrap();
        let places = records(&log.chain());
        let seq = seq.index(places.len());
        let (path, from, to) = places[seq].clone();
        let mut bytes = fs::read(&path).unwrap();
        let header = Frame::parse(&bytes[from..to]).unwrap().header;
        let (_, other) = ring.held.iter().find(|(kid, _)| **kid != header.kid).unwrap();
        let Held::Live { dek, .. } = other else { panic!("live") };
        let key = UserKey { kid: header.kid, epoch: header.epoch, pseudonym: header.pseudonym, dek: dek.clone() };
        let mut forged = Vec::new();
        let body = vec![b'x'; to - from - frame::OVERHEAD];
        frame::seal(&mut forged, &header, &key, &keys::random(), &body);
        if tree {
            // Who forges it forges the stored tree as well.
            let leaves = leaves_path(&path);
            let mut stored = fs::read(&leaves).unwrap();
            let first = places.iter().position(|(of, ..)| *of == path).unwrap();
            stored[(seq - first) * 32..][..32].copy_from_slice(&leaf_hash(&forged));
            fs::write(leaves, stored).unwrap();
        }
        bytes[from..to].copy_from_slice(&forged);
        fs::write(&path, bytes).unwrap();
        prop_assert_eq!(first_bad(&log.0), Some(seq as u64));
    }
}

#[test]
fn segments_that_are_gone_are_found() {
    let count = segments(&chain_path(closed(), 1)).unwrap().len();
    for which in 0..count {
        let log = Folder::copy_of(closed());
        let (first, path) = segments(&log.chain()).unwrap()[which].clone();
        fs::remove_file(&path).unwrap();
        assert_eq!(first_bad(&log.0), Some(first), "{which}");
    }
    let log = Folder::copy_of(closed());
    fs::rename(log.chain(), chain_path(&log.0, 2)).unwrap();
    assert_eq!(first_bad(&log.0), Some(0));
}

#[test]
fn what_hides_a_cut_beside_the_log_is_found_by_a_checkpoint_from_elsewhere() {
    let log = Folder::copy_of(closed());
    let notes = fs::read_to_string(notes_path(&log.chain())).unwrap();
    let (kept, _) = checkpoint::split_file(&notes);
    let (elsewhere, shorter) = (kept[kept.len() - 1], kept[kept.len() - 2]);
    let size = checkpoint::Checkpoint::parse(shorter).unwrap().size;
    // Whoever can write the directory cuts everything back to an earlier checkpoint.
    fs::write(
        notes_path(&log.chain()),
        notes.strip_suffix(&format!("{elsewhere}\n")).unwrap(),
    )
    .unwrap();
    let all = records(&log.chain());
    for (first, path) in segments(&log.chain()).unwrap() {
        if first >= size {
            fs::remove_file(&path).unwrap();
            let _ = fs::remove_file(leaves_path(&path));
            continue;
        }
        let keep = all
            .iter()
            .take(usize::try_from(size).unwrap())
            .filter(|(of, ..)| *of == path);
        let (count, end) = keep.fold((0, 0), |(count, _), (_, _, to)| (count + 1, *to));
        fs::write(&path, &fs::read(&path).unwrap()[..end]).unwrap();
        let leaves = fs::read(leaves_path(&path)).unwrap();
        fs::write(leaves_path(&path), &leaves[..count * 32]).unwrap();
    }
    assert_eq!(first_bad(&log.0), None, "the directory alone cannot tell");
    let against = Against {
        checkpoint: Some(elsewhere),
        ..Against::default()
    };
    assert_eq!(verify(&log.0, &against).unwrap().tampered.unwrap().seq, size);
    let whole = verify(closed(), &against).unwrap();
    assert_eq!(whole.tampered, None);
}

#[test]
fn a_write_that_was_cut_short_anywhere_leaves_a_valid_prefix() {
    // As SIGKILL leaves it: no checkpoint at the end.
    let folder = Folder::new();
    let mut quiet = settings();
    quiet.chain.checkpoint_records = 16;
    quiet.chain.segment_bytes = 1 << 20;
    let log = AuditLog::open(&folder.0, &kek(), &quiet, Arc::new(SystemClock)).unwrap();
    fill(&log, 27);
    log.flush(PATIENCE).unwrap();
    let killed = Folder::copy_of(&folder.0);
    drop(log);
    let places = records(&killed.chain());
    assert_eq!(places.len(), 28);
    let path = places[0].0.clone();
    let name = path.file_name().unwrap();
    let bytes = fs::read(&path).unwrap();
    for cut in (places[16].2..=bytes.len()).step_by(7) {
        let copy = Folder::copy_of(&killed.0);
        fs::write(copy.chain().join(name), &bytes[..cut]).unwrap();
        let whole = places.iter().filter(|(_, _, to)| *to <= cut).count() as u64;
        let log = AuditLog::open(&copy.0, &kek(), &quiet, Arc::new(SystemClock)).unwrap();
        let end = places[usize::try_from(whole).unwrap() - 1].2;
        assert_eq!(log.recovered().cut, (cut - end) as u64);
        fill(&log, 3);
        assert_eq!(log.close(PATIENCE), Some(0));
        let found = with_keys(&copy.0).unwrap();
        let told = u64::from(log.recovered().cut > 0 || whole > 17);
        assert_eq!(
            (found.tampered, found.records),
            (None, whole + told + 3),
            "cut at {cut}"
        );
    }
    // What was signed is missed, not recovered from.
    let copy = Folder::copy_of(&killed.0);
    fs::write(copy.chain().join(name), &bytes[..places[16].2 - 1]).unwrap();
    let opened = AuditLog::open(&copy.0, &kek(), &quiet, Arc::new(SystemClock));
    assert!(matches!(opened, Err(AuditError::Tampered(found)) if found.seq == 16));
}

#[test]
fn an_altered_log_goes_on_in_a_new_chain_that_says_so() {
    let log = Folder::copy_of(closed());
    let (path, from, _) = records(&log.chain()).last().unwrap().clone();
    flip(&path, (from + 80) * 8);
    assert!(matches!(open(&log.0), Err(AuditError::Tampered(found)) if found.seq == 60));
    let mut told = settings();
    told.new_chain = Some("restored by the operator".to_owned());
    let reopened = AuditLog::open(&log.0, &kek(), &told, Arc::new(SystemClock)).unwrap();
    fill(&reopened, 2);
    reopened.close(PATIENCE).unwrap();
    let reader = Reader::open(&log.0, Some(&kek())).unwrap();
    let mut cursor = reader.records(Wanted::default()).unwrap();
    let mut all = Vec::new();
    loop {
        let some = reader.read(&mut cursor, 7).unwrap();
        if some.is_empty() {
            break;
        }
        all.extend(some);
    }
    let first = all.iter().find(|record| record.chain == 2).unwrap();
    let Body::Text(body) = &first.body else {
        panic!("it opens")
    };
    assert!(
        body.contains(r#""name":"chain_break""#) && body.contains(r#""first_bad_seq":60"#),
        "{body}"
    );
    // The altered chain stays as evidence, and stays altered.
    assert_eq!(first_bad(&log.0), Some(60));
    // Later it goes on in the new one.
    let again = open(&log.0).unwrap();
    assert_eq!(again.chain(), 2);
}

#[test]
fn an_erased_user_is_gone_and_the_log_still_verifies() {
    let folder = Folder::new();
    let log = open(&folder.0).unwrap();
    fill(&log, 20);
    assert_eq!(log.erase("ann", "asked to", PATIENCE).unwrap(), 1);
    assert_eq!(log.erase("nobody-known", "asked to", PATIENCE).unwrap(), 0);
    fill(&log, 5);
    log.close(PATIENCE).unwrap();
    let found = with_keys(&folder.0).unwrap();
    let of_ann = (0..20).filter(|number| number % 3 == 0 && number % 7 != 0).count() as u64;
    assert_eq!((found.tampered, found.erased), (None, of_ann));
    let reader = Reader::open(&folder.0, Some(&kek())).unwrap();
    let mut cursor = reader.records(Wanted::default()).unwrap();
    let all = reader.read(&mut cursor, 1_000).unwrap();
    let texts: Vec<&str> = all
        .iter()
        .filter_map(|record| match &record.body {
            Body::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        all.iter().filter(|record| record.body == Body::Erased).count() as u64,
        of_ann
    );
    assert!(texts.iter().any(|text| text.contains("secret-bob-4")));
    assert!(
        texts
            .iter()
            .any(|text| text.contains("user_deleted") && text.contains(r#""keys":1"#) && !text.contains("ann"))
    );
    // What came after the erasure is under a new key.
    assert_eq!(texts.iter().filter(|text| text.contains("secret-ann-")).count(), 1);
    let mut of_bob = reader
        .records(Wanted {
            user: Some("bob".to_owned()),
            ..Wanted::default()
        })
        .unwrap();
    let of_bob = reader.read(&mut of_bob, 1_000).unwrap();
    assert!(!of_bob.is_empty());
    for record in of_bob {
        assert!(matches!(record.body, Body::Text(text) if text.contains("secret-bob-")));
    }
}

#[test]
fn a_record_is_proved_to_who_has_the_checkpoint() {
    let reader = Reader::open(closed(), None).unwrap();
    for seq in [0, 7, 8, 30, 60] {
        let proved = reader.prove(1, seq).unwrap().unwrap();
        let (name, key) = checkpoint::parse_verifier_key(&proved.verifier).unwrap();
        let signed = checkpoint::Checkpoint::verify(&proved.note, &name, &key).unwrap();
        assert!(verify_inclusion(
            &proved.leaf,
            seq,
            signed.size,
            &proved.proof,
            &signed.root
        ));
        let (path, from, to) = records(&chain_path(closed(), 1))[usize::try_from(seq).unwrap()].clone();
        assert_eq!(proved.leaf, leaf_hash(&fs::read(path).unwrap()[from..to]));
    }
    assert_eq!(reader.prove(1, 61).unwrap(), None);
}

#[test]
fn a_log_has_one_writer() {
    let folder = Folder::new();
    let log = open(&folder.0).unwrap();
    assert!(matches!(open(&folder.0), Err(AuditError::InUse { .. })));
    assert_eq!(log.close(PATIENCE), Some(0));
    assert!(open(&folder.0).is_ok());
}

/// Waits for something that another thread does.
fn until(what: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !what() {
        assert!(std::time::Instant::now() < deadline, "it never happens");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_log_whose_file_is_moved_away_refuses_spills_and_drops_and_tells_afterwards() {
    let folder = Folder::new();
    let mut settings = settings();
    settings.chain.segment_bytes = 1 << 20;
    settings.intake.retry = Duration::from_millis(5);
    settings.intake.spill = 3;
    let log = AuditLog::open(&folder.0, &kek(), &settings, Arc::new(SystemClock)).unwrap();
    fill(&log, 3);
    log.flush(PATIENCE).unwrap();
    let (_, path) = segments(&folder.chain()).unwrap()[0].clone();
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    log.offer(entry(
        AuditClass::Permission,
        Some("ann"),
        "queued-before-it-was-noticed",
    ))
    .unwrap();
    until(|| log.health().status == Status::Sick);
    assert!(
        log.health().reason.contains("deleted or renamed"),
        "{}",
        log.health().reason
    );
    for class in [AuditClass::Permission, AuditClass::Isolation, AuditClass::Admin] {
        assert_eq!(log.offer(entry(class, None, "refused")).unwrap_err().class, class);
    }
    for number in 0..5 {
        log.offer(entry(AuditClass::Lifecycle, Some("bob"), &format!("spilled-{number}")))
            .unwrap();
    }
    log.offer(entry(AuditClass::Debug, None, "dropped")).unwrap();
    let sick = log.health();
    assert_eq!((sick.lost, sick.spilled), ([1, 1, 1, 2, 1], 3));
    assert!(log.erase("ann", "not now", PATIENCE).is_err());
    fs::rename(&away, &path).unwrap();
    until(|| log.health().status == Status::Ok);
    log.offer(entry(AuditClass::Permission, Some("ann"), "taken-again"))
        .unwrap();
    assert_eq!(log.close(PATIENCE), Some(0));
    assert_eq!(with_keys(&folder.0).unwrap().tampered, None);
    let reader = Reader::open(&folder.0, Some(&kek())).unwrap();
    let all = reader
        .read(&mut reader.records(Wanted::default()).unwrap(), 1_000)
        .unwrap();
    let bodies: Vec<_> = all.into_iter().map(|record| record.body).collect();
    let text = format!("{bodies:?}").replace('\\', "");
    assert!(
        text.contains(r#""lost":{"permission":1,"isolation":1,"admin":1,"lifecycle":2,"debug":1}"#),
        "{text}"
    );
    for kept in [
        "queued-before-it-was-noticed",
        "spilled-2",
        "spilled-3",
        "spilled-4",
        "taken-again",
    ] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    for lost in ["spilled-0", "spilled-1", "refused", "dropped"] {
        assert!(!text.contains(lost), "{lost}: {text}");
    }
}

#[test]
fn a_full_queue_refuses() {
    let folder = Folder::new();
    let mut settings = settings();
    settings.intake.queue = 4;
    settings.intake.batch = 1_000;
    settings.intake.linger = Duration::from_secs(30);
    settings.intake.patience = u64::MAX;
    let log = AuditLog::open(&folder.0, &kek(), &settings, Arc::new(SystemClock)).unwrap();
    fill(&log, 4);
    let refused = log.offer(entry(AuditClass::Admin, None, "one too many")).unwrap_err();
    assert!(refused.reason.contains("full"), "{refused}");
    assert_eq!(log.close(PATIENCE), Some(0));
    assert_eq!(
        with_keys(&folder.0).unwrap().records,
        1 + 4 + 1,
        "the begin, the four, the gap"
    );
}

#[test]
fn a_keystore_that_is_gone_is_missed_and_none_is_made_in_its_place() {
    let log = Folder::copy_of(closed());
    fs::remove_file(keystore_path(&log.0)).unwrap();
    let error = open(&log.0).unwrap_err();
    assert!(
        matches!(&error, AuditError::Keystore { what } if what.contains("missing")),
        "{error}"
    );
    assert!(!keystore_path(&log.0).exists());
    // Who has lost it for good goes on in another chain, under other keys.
    let mut told = settings();
    told.new_chain = Some("the disk with the keys is lost".to_owned());
    let again = AuditLog::open(&log.0, &kek(), &told, Arc::new(SystemClock)).unwrap();
    assert_eq!((again.chain(), again.close(PATIENCE)), (2, Some(0)));
}

/// Where the slots of a keystore are.
fn slots(keys: &[u8]) -> Vec<usize> {
    (128..keys.len()).step_by(144).collect()
}

#[test]
fn keys_that_the_log_did_not_erase_are_not_called_erased() {
    let keys = fs::read(keystore_path(closed())).unwrap();
    assert!(slots(&keys).len() > 2);
    for from in slots(&keys) {
        for whole in [false, true] {
            let log = Folder::copy_of(closed());
            let mut changed = keys.clone();
            changed[from] = 2;
            if whole {
                changed[from + 16..from + 144].fill(0);
            }
            fs::write(keystore_path(&log.0), changed).unwrap();
            assert!(first_bad(&log.0).is_some(), "the slot at {from}, {whole}");
        }
    }
}

#[test]
fn what_a_rotation_left_that_was_killed_is_destroyed_at_the_start() {
    let log = Folder::copy_of(closed());
    let left = keystore_path(&log.0).with_extension("new");
    fs::copy(keystore_path(&log.0), &left).unwrap();
    let mut still_open = fs::File::open(&left).unwrap();
    let opened = open(&log.0).unwrap();
    assert_eq!(opened.close(PATIENCE), Some(0));
    assert!(!left.exists(), "keys that nobody erases any more");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut still_open, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "nor are they left on the disk");
}

/// A log as SIGKILL leaves it, after the erasure of a user.
fn killed_after_an_erasure() -> Folder {
    let folder = Folder::new();
    let log = open(&folder.0).unwrap();
    fill(&log, 4);
    log.erase("ann", "asked to", PATIENCE).unwrap();
    fill(&log, 2);
    log.flush(PATIENCE).unwrap();
    Folder::copy_of(&folder.0)
}

#[test]
fn an_erasure_before_a_crash_costs_no_record() {
    let killed = killed_after_an_erasure();
    let before = records(&killed.chain()).len() as u64;
    let log = open(&killed.0).unwrap();
    assert_eq!(log.recovered().cut, 0);
    assert_eq!(log.close(PATIENCE), Some(0));
    let found = with_keys(&killed.0).unwrap();
    assert_eq!((found.tampered, found.records), (None, before + 1));
    assert!(found.erased > 0);
}

#[test]
fn records_that_somebody_without_the_keys_appends_are_cut_off() {
    let killed = killed_after_an_erasure();
    let (path, from, to) = records(&killed.chain()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let last = Frame::parse(&bytes[from..to]).unwrap().header;
    let erased = {
        let ring = KeyRing::read(&keystore_path(&killed.0), &kek()).unwrap();
        let found = ring.held.iter().find(|(_, held)| matches!(held, Held::Erased));
        *found.unwrap().0
    };
    for kid in [keys::random(), erased, last.kid] {
        let log = Folder::copy_of(&killed.0);
        let key = UserKey {
            kid,
            epoch: last.epoch,
            pseudonym: last.pseudonym,
            dek: keys::random_key(),
        };
        let header = frame::Header {
            seq: last.seq + 1,
            kid,
            ..last
        };
        let mut forged = bytes.clone();
        frame::seal(&mut forged, &header, &key, &keys::random(), b"{}");
        let length = forged.len() - bytes.len();
        fs::write(log.chain().join(path.file_name().unwrap()), forged).unwrap();
        let opened = open(&log.0).unwrap();
        assert_eq!(opened.recovered().cut, length as u64);
        assert_eq!(opened.close(PATIENCE), Some(0));
        assert_eq!(with_keys(&log.0).unwrap().tampered, None);
    }
}

#[test]
fn a_chain_whose_checkpoints_are_gone_is_altered() {
    let log = Folder::copy_of(closed());
    let notes = notes_path(&log.chain());
    for empty in [true, false] {
        if empty {
            fs::write(&notes, b"").unwrap();
        } else {
            fs::remove_file(&notes).unwrap();
        }
        assert_eq!(first_bad(&log.0), Some(0));
        assert_eq!(verify(&log.0, &Against::default()).unwrap().tampered.unwrap().seq, 0);
    }
    // The first segment alone: nothing in it says that there was more.
    for (first, path) in segments(&log.chain()).unwrap() {
        if first > 0 {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(matches!(open(&log.0), Err(AuditError::Tampered(found)) if found.seq == 0));
}

#[test]
fn each_altered_chain_is_named() {
    let log = Folder::copy_of(closed());
    let (path, from, _) = records(&log.chain()).last().unwrap().clone();
    flip(&path, (from + 80) * 8);
    let mut told = settings();
    told.new_chain = Some("restored by the operator".to_owned());
    let reopened = AuditLog::open(&log.0, &kek(), &told, Arc::new(SystemClock)).unwrap();
    fill(&reopened, 3);
    reopened.close(PATIENCE).unwrap();
    let (path, from, _) = records(&chain_path(&log.0, 2))[2].clone();
    flip(&path, (from + 80) * 8);
    let found = with_keys(&log.0).unwrap();
    let places: Vec<_> = found.altered.iter().map(|each| (each.chain, each.seq)).collect();
    assert_eq!((places, found.tampered.unwrap().chain), (vec![(1, 60), (2, 2)], 1));
}

#[test]
fn a_log_whose_lock_is_removed_keeps_others_out_all_the_same() {
    let folder = Folder::new();
    let log = open(&folder.0).unwrap();
    fill(&log, 1);
    log.flush(PATIENCE).unwrap();
    fs::remove_file(folder.0.join("lock")).unwrap();
    fill(&log, 1);
    log.flush(PATIENCE).unwrap();
    assert!(matches!(open(&folder.0), Err(AuditError::InUse { .. })));
    // Who was quicker has the log, and the first one is sick.
    fs::remove_file(folder.0.join("lock")).unwrap();
    let other = open(&folder.0).unwrap();
    fill(&log, 1);
    until(|| log.health().status == Status::Sick);
    assert!(
        log.health().reason.contains("another process"),
        "{}",
        log.health().reason
    );
    drop(log);
    assert_eq!(other.close(PATIENCE), Some(0));
    assert_eq!(with_keys(&folder.0).unwrap().tampered, None);
}
