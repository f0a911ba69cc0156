//! Faults that a build for tests can be told to have, one at a time: what the tests are tested with.
//!
//! `mutant!(Name)` stands where the fault would be. It is the constant `false`, unless the crate was built with the feature
//! `mutants`; then it says whether the environment variable `ISOLANE_MUTANT` names it. `python -m tests.mutants` runs
//! the tests that must notice each of them. A released extension is built without the feature.

macro_rules! mutants {
    ($($name:ident: $breaks:literal,)+) => {
        /// A fault, by the name that `ISOLANE_MUTANT` takes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $breaks] $name,)+
        }

        impl Mutant {
            /// All of them, with their names and what each breaks.
            pub const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$name, stringify!($name), $breaks),)+];
        }
    };
}

mutants! {
    // Permits.
    PermitLostOnCancel: "a waiter cancelled after it was granted keeps the permit for ever",
    PermitReturnedTwice: "a returned permit gives the process two units back",
    SlotFreedTwice: "a permit that was released is freed again when it is dropped",
    WaiterNotWoken: "a waiter is granted a permit and not told",
    WaitersOutOfOrder: "the last waiter of a user gets the permit first",
    UsersTakeNoTurns: "a user whose turn it was is first in line again",
    UserLimitOffByOne: "a user may run one more than its limit",
    UserLimitIgnored: "a user's limit does not count while the process has room",
    ProcessLimitOffByOne: "the process may run one more than its limit",
    QueueUnbounded: "any number may wait",
    NeverRefusedEarly: "a request that cannot be served in time waits all the same",
    UrgencyIgnored: "urgent requests wait behind the user's others",
    UrgencyNeverGrows: "a request that is not urgent waits for ever behind those that are",
    WeightIgnored: "a user's weight does not count",
    ChargeNotCorrected: "what a permit was held for is never put right in the fair order",
    ResourceLimitIgnored: "a named resource is given out without end",
    ResourceNotReturned: "a named resource stays in use for ever",
    BusyUserForgotten: "a user with a permit is forgotten",
    GoneChildHoldsParent: "a parent lends its unit for ever to a child that gave up waiting",
    ChildTakesOwnUnit: "a nested permit takes a unit of its own instead of its parent's",
    LastChildReturnsUnit: "the unit that a parent lent goes to the pool and not back to it",
    ParkedWithoutALook: "a permit that is returned between the look and the wait is missed",
    GivingUpRaces: "who gives up while being granted is told that it was not",
    SuspendedKeepsUnit: "a permit that is suspended keeps its unit",
    BoundPermitLeaks: "a permit whose response is never sent counts as leaked",
    TimeNeverOver: "a wait on an event loop does not end at its deadline",
    HigherLimitWakesNobody: "a limit that is raised is noticed by nobody who waits",
    RetryAfterUnbounded: "a client may be told to come back after hours",
    InterruptNotHeard: "a thread that waits does not hear Ctrl-C",
    LeakNotCounted: "a permit that nobody returned is not counted as leaked",
    // Limits over several processes.
    RunsWithoutLease: "what is shared runs without a lease",
    LeaseNotGivenBack: "a lease that nobody needs stays in the store until it expires",
    LeaseKeptAfterRelease: "a permit that comes back keeps its lease",
    IdleLeaseKept: "a lease that nothing runs under is kept for ever",
    LeasesNeverRenewed: "leases are not renewed",
    LeaseDeadlineLate: "a holder relies on its lease until the store forgets it",
    LostLeaseNotTold: "nobody hears of a lease that was lost",
    EmptiedStoreNotRestored: "what runs is not put back into a store that lost its data",
    RestoredLeaseReused: "a lease that was put back without a look at the limits lets others run",
    LocalPartFreedUnseen: "without the store, who waits for this process's part of a total is not told that it is free",
    LocalShareIgnored: "without the store each process runs as much as all together may",
    BreakerNeverOpens: "a store that does not answer is asked for ever",
    NoBackOff: "who was refused asks again at once",
    AsksBeyondLocalLimit: "leases are asked for that the process could not use",
    LateGrantKept: "what is granted after its call had failed stays in the store until it expires",
    DeskSleepsOn: "whoever carries operations is not told that there are some",
    // What boundaries found.
    ViolationNotCounted: "data of another user that was found is not counted",
    RefusalNotCounted: "an attempt that a boundary refused is not counted",
    // What rooms measure.
    LeftOutCountedAgain: "an event that is left out for a socket counts each time it is looked at",
    RollbackCountedAgain: "a rollback that comes back with its document counts twice",
    FirstReasonCounts: "a decision is told with the first reason and not the worst",
    ShownFlagsCount: "a decision that is only shown counts as an evaluation",
    // The adaptive limit.
    BaselineNeverMoves: "calls that take longer for good look like a queue for ever",
    ControllerCountsStale: "a call that was admitted under another limit counts",
    ControllerIgnoresDrops: "dropped calls do not lower the adaptive limit",
    ControllerUnbounded: "the adaptive limit leaves its bounds",
    // Traces.
    TraceNotInherited: "a child of a context is in no trace",
    TraceNotPublished: "events do not say which trace they are of",
    // What operators are shown.
    PseudonymIsTheName: "operators are shown the ids of users",
    // Flags.
    RolloutOffByOne: "the user whose bucket equals the rollout is in it",
    SaltIgnored: "the same users are first in every flag",
    KillSwitchIgnored: "flags stay on although the kill switch is thrown",
    RollbackNotLatched: "a flag that was rolled back is on again",
    OlderRevisionTaken: "a document that is older than the one in force replaces it",
    UnknownFieldPasses: "a misspelt field of a document is passed over",
    SnapshotNotInherited: "a child context decides by the flags of its own moment",
    // Engines.
    SlotKeptWhenConstructionFails: "a returned permit is kept, as when an engine could not be built",
    SlotKeptOnClose: "a closed engine keeps its slot",
    EngineNeverDue: "an engine lives for ever",
    ZombieWritesOn: "an agent that was left behind by force goes on writing",
    BusyEngineEvicted: "an engine that runs something is ended to make room",
    IdleTimeIgnored: "an engine that is idle lives until its lifetime is over",
    // The loop account.
    ThrownNotPassedOn: "a cancellation ends what drives an agent, and the agent is not told",
    InnerStepsCountTwice: "an agent is charged with the time of the agents that it runs",
    LongestStepIsTheLast: "the longest step that is told is the latest long one",
    BlocksUnbounded: "every block of the loop is kept for ever",
    LoopBudgetIgnored: "a run may use the loop for ever",
    BlockNotTold: "who blocks the loop is not kept",
    // The guard of a rollout.
    GuardBetsOnTheBound: "the guard takes what is good for evidence that a rollout does harm",
    GuardLatchLost: "a rollout that was rolled back goes on by itself",
    GuardIgnoresDwell: "a rollout climbs its ladder as fast as there are samples",
    GuardNeedsNoData: "a rollout climbs its ladder by time alone",
    GuardSleepsWhilePaused: "a guard that is paused rolls nothing back",
    GuardIgnoresBaseline: "what is as slow as the older side is rolled back",
    // Metrics.
    MetricNotCounted: "a counter does not count",
    EndedContextStaysActive: "a context that was cleaned up counts as one that is there",
    PermitRefusalNotMetered: "requests for permits that come to nothing are not counted",
    AuditRecordsNotMetered: "audit records that were written are not counted",
    MetricNamesMixed: "a name beyond the cap of its label counts as the first one",
    MetricLabelNotEscaped: "a label's value can end the line of a scrape",
    MetricBucketsNotAddedUp: "the buckets of a histogram are told each alone",
    // Events.
    FoldDropsLatest: "a snapshot keeps the first event of a key and not the latest",
    FoldForgetsOpenSpans: "a full snapshot forgets how open spans began",
    FoldDropsAll: "what is folded is in no snapshot",
    FoldKeepsLastPart: "a snapshot has the last part of a text only",
    CutTextLooksWhole: "a text whose beginning found no room in the snapshot looks like a whole one",
    OldestDroppedSilently: "a full log drops its oldest event, and nothing stands for it",
    CriticalShed: "a full log drops what must never be left out",
    CriticalSkipped: "a reader that is behind is not sent what must never be left out",
    ConflationKeepsFirst: "of the progress of a key the first event counts",
    ReadByUrgency: "urgent events overtake others",
    TrailingSkipNotTold: "events that were skipped last are not accounted for",
    TextsMixed: "parts of two texts are joined",
    TextJoinsAcrossEvents: "a part of a text overtakes the event before it",
    TextJoinedBackwards: "the parts of a text are joined in the wrong order",
    EndedStreamTakesEvents: "an event is taken after the end of its stream",
    ProducerIdForgotten: "an event that is published again is appended again",
    DeliveryWakesNobody: "who waits for a delivery is not told of it",
    EpochIgnored: "a client resumes in another incarnation of the log from where it was in the earlier",
    NumberReusedAfterFold: "an event gets the number of the one before it once the log has folded",
    NumberSkipped: "a number is left out now and then",
    PublishInTwoSteps: "a stream may end between the look at it and the append",
    EndInTwoSteps: "two that end a stream at once both do",
    WriterCountRaces: "two writers that leave at once count as one",
    LeftStreamJoined: "who opens a stream whose last writer is leaving gets one that ends",
    RoomSpins: "who makes room waits in a loop for a log that another thread drops",
    LogsWaitForEachOther: "two logs that make room for each other wait for each other's lock",
    PublishWakesNobody: "a reader that waits is not told of an event",
    EndWakesNobody: "a reader that waits is not told of the end",
    WakeLostWhenParking: "an event between a reader's look and its wait wakes nobody",
    EndFrameLost: "the end of a stream is not told",
    OpenSpansLeftOpen: "the end of a stream closes no span",
    TwoTerminals: "a span may end twice",
    ToolLeftOpen: "an agent may complete while its tool runs",
    SpanIdReused: "two executions of one request have one id",
    ReadTwiceAfterResume: "a client that resumes gets its last event again",
    LaterRunNotFollowed: "a connection does not see the runs that begin after it",
    AckNotCounted: "what a client has acknowledged still counts as un-acked",
    AckNeverDue: "a client need not acknowledge anything",
    SocketNeverPauses: "a socket goes on however much its client has not acknowledged",
    RunsTakeNoTurns: "a run is read to its end before another of its user gets a turn",
    DeferredNeverFlushed: "what may wait for a more urgent event waits for ever",
    CommandsUnbounded: "a client may give any number of commands",
    ForeignRunCancelled: "the wish to cancel another user's run is accepted",
    EndedRunOwesNoAck: "what was sent of a run is forgotten at its end, acknowledged or not",
    SkipNotSent: "numbers that bring nothing are left out on the wire",
    LargeEventAccepted: "an event of any size is taken",
    UserBudgetIgnored: "one user's logs may fill the process",
    RetentionNeverOver: "an ended log is kept for ever",
    BytesNotReturned: "what is freed stays charged",
    // Logs of other workers.
    MirrorTakesEvents: "an event is published into the mirror of another worker's log",
    MirrorEndedHere: "the stream of another worker can be ended here",
    MirrorTakesGaps: "a mirror goes on after events that it never got",
    MirrorTakesAgain: "a mirror takes what it has once more",
    MirrorForgetsSpans: "a mirror does not know which executions are open",
    MirrorAheadResets: "a client that is ahead of a mirror begins anew",
    ReplicaForgetsShed: "what the writer left out looks like a loss to a mirror",
    ReplicaForgetsFold: "what was folded before it was taken is in no snapshot",
    EntryNotBound: "the entry of one log can be read into another",
    EntryNotSummed: "an entry that was damaged is read",
    SnapshotForgetsPairs: "a snapshot that travels forgets which ended call each beginning belongs to",
    StoredBeforeStored: "what was taken counts as stored",
    // What is known of the delivery.
    DelayCountsReplay: "what a client reads again counts as delayed by as long as it was away",
    EventTypesUnbounded: "every type of event that an application makes up is counted by name for ever",
    PongNotHeard: "a client that answers owes an answer all the same",
    ForeignSocketClosed: "a user's name for a socket closes another user's",
    // Memory.
    CacheNeverExpires: "an entry of a cache outlives its time",
    CacheForgetsUse: "an entry that was just read goes first",
    CacheEvictsLatest: "the entry used last makes room",
    CacheBytesUnbounded: "a cache holds any number of bytes",
    WeakEntryTakesLater: "the end of an earlier value takes the later one of its key along",
    CacheKeptAfterCleanup: "the cache of a context that was cleaned up keeps what it has",
    MemoryLimitIgnored: "bytes are charged over the limit",
    CacheBytesKept: "the bytes of an entry that left a cache stay charged",
    // Owners.
    OwnerNotComparedAtPublish: "an event of one user may be published into the log of another",
    OwnerNotComparedAtSubscribe: "a connection follows the stream of another user",
    OwnerNotComparedAtWrite: "a log is read for another user's socket",
    OwnerNotComparedAtBind: "an emitter or a permit may be bound to another user's context",
    RunOfAnotherUserAccepted: "two users may have a run of one id",
    SessionNotCompared: "two users may hold one database session",
    // Contents.
    CanaryNotVerified: "text that looks like a canary passes for one",
    EveryCanaryIsOwn: "the canary of another user passes for one's own",
    EncodedCanaryMissed: "a canary behind escapes, in base 64 or in hexadecimal is not seen",
    FormerKeyForgotten: "a canary of before the key was changed is not known any more",
    SecretsNotSearched: "registered secrets are not looked for",
    SharedSecretAlarms: "a secret that two users have is taken for the first one's",
    StreamForgetsEnd: "what a stream cuts in two is not seen",
    KeysNotScanned: "the keys of dictionaries are not looked at",
    NamesNotScanned: "the names beside the payload of an event are not looked at",
    SightingsCrowdOut: "what one owner may be shown hides what another's is",
    SightingNotTold: "what a boundary of the process sees is told to nobody",
    // Findings in texts.
    LuhnSkipped: "any number of an issuer's length counts as a card, whatever its check digit",
    CardAfterDot: "the fraction of a number counts as a card",
    KeyNamesBySubstring: "a key's name counts as secret when a word of the list is anywhere in it",
    MaskIsNoMask: "a mask is masked again",
    CarryTooShort: "of a text in pieces too little is held back to find what was split",
    EventSecretsShown: "an event is published with the secrets in it",
    // Lanes and processes.
    LaneEvictedInUse: "a lane is evicted while something uses it",
    IdleLanesUnbounded: "idle lanes are never evicted",
    ForkNotNoticed: "an object from before a fork works in the child",
    RandomnessSharedAfterFork: "parent and child draw the same random bytes after a fork",
    // Legacy calls.
    LedgerUnbounded: "the ledger of legacy calls keeps every site for ever",
    LedgerEvictsLatest: "the sites that were called latest make room in the ledger",
    LedgerMergeKeepsFirstTime: "a site that several processes called has the time of the first one's latest call",
    LegacySiteIsSuperCall: "a legacy object is counted at the line of a subclass that calls super, whoever made it",
    LegacySymbolsUnbounded: "every symbol of a legacy call is counted by name for ever",
    // The audit log.
    HeaderNotAuthenticated: "the body of a record opens under another header",
    LeafWithoutPrefix: "the hash of a leaf may be that of an inner node",
    CheckpointNotExtended: "a log goes on after records that were signed are gone",
    ShredKeepsSalt: "the key and the salt of an erased user stay in the keystore",
    GapNotCounted: "records that were not written are mentioned nowhere",
    InodeNotChecked: "a log whose file was moved away goes on into nowhere",
    // Contexts.
    ChildAliasesParent: "a child writes into its parent's dictionary",
    DeepCopySharesNested: "a deep copy shares what is nested twice",
    RequestIdReused: "two children of one name have one request id",
    DepthUnbounded: "children may be nested without end",
    PlaceholderPrefixPasses: "an id that begins like a placeholder is taken",
    UnfinishedRunSucceeds: "a run that never ended counts as a success",
    EndedContextRuns: "a context that has ended starts runs",
    // Tools and permissions.
    WallSkipped: "a resource of another user passes for one's own",
    DenialOverruled: "what one role permits is permitted though another one denies it",
    EarlyVerdictNotRecorded: "a check that breaks off is refused and recorded nowhere",
    CancelledCallNotTold: "a tool call that is cancelled never completes on the stream",
    ToolDeadlineIgnored: "a tool may run for ever",
}

/// Which one this process has.
#[cfg(feature = "mutants")]
pub fn active() -> Option<Mutant> {
    static ACTIVE: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    *ACTIVE.get_or_init(|| {
        let wanted = std::env::var("ISOLANE_MUTANT").ok().filter(|name| !name.is_empty())?;
        let found = Mutant::ALL.iter().find(|(_, name, _)| *name == wanted);
        let names: Vec<_> = Mutant::ALL.iter().map(|(_, name, _)| *name).collect();
        assert!(
            found.is_some(),
            "ISOLANE_MUTANT is {wanted:?}, which is none of {}; correct or unset it",
            names.join(", ")
        );
        found.map(|(mutant, ..)| *mutant)
    })
}

/// Whether this process has the fault.
#[cfg(feature = "mutants")]
pub(crate) fn is_on(mutant: Mutant) -> bool {
    active() == Some(mutant)
}

/// Without the feature none is ever on, and what it would do is not compiled.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[allow(clippy::inline_always)] // no trace of it may be left
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}

macro_rules! mutant {
    ($name:ident) => {
        $crate::mutants::is_on($crate::mutants::Mutant::$name)
    };
}
pub(crate) use mutant;
