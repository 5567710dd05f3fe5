//! The rules of the protocol that can be switched off, one by one.
//!
//! The numbers are those of `commit-protocol.md`, section 14. A rule that can be switched off without any
//! claim breaking is either not needed or not modelled; [`super::plans::CASES`] says what was found.

/// One rule, switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// H1: logs are compared by tables that know only epochs that became active.
    TableOfActives,
    /// H1b: X writes its epoch Record into its own log before the create has won. No plan breaks: whoever
    /// holds such a Record loses it to the chain or to a table that is true, so this rule is a second lock
    /// on the door of H1.
    OpeningBeforeFence,
    /// H2: X reads a Record of a higher epoch in the chain and goes on.
    ReadsPastHigherEpoch,
    /// H2b: a second name in the same epoch, and its epoch Record does not depose the first.
    SecondName,
    /// H3: a swap without an answer is taken for lost.
    SwapTakenForLost,
    /// H4: a Primary that starts again goes on with its tenure.
    TenureSurvivesRestart,
    /// H5: a Primary answers Prepare and goes on.
    PromiserStaysPrimary,
    /// H6: voters without the Primary, which counts itself all the same.
    PrimaryWithoutVote,
    /// H7: Receipts leave before the cut is durable, and are counted.
    ReceiptBeforeCut,
    /// H7b: a heartbeat raises committed.
    HeartbeatCommits,
    /// H8: the gate stays open during a swap of the voters.
    GateOpenInSwap,
    /// H8b: the voters are swapped before everything is in the bucket.
    SwapBeforeFlush,
    /// H9: clean-up deletes Chunks with epoch Records, and those before them.
    CleansEpochs,
    /// H9b: a Chunk is sent again with more Records, and what stands in the slot is taken for it.
    LargerBatch,
    /// H9c: the cleaner does not look at the register between its list and its deletes.
    CleansUnseen,
    /// H9d: X takes an empty slot for the end of the chain without a list.
    EmptySlotIsEnd,
    /// H9e: a Chunk with an epoch Record is believed although a Snapshot reaches beyond it.
    OldFenceBelieved,
    /// H9f: X takes its fence into its own log, and as the end of the chain, before it is Active.
    FenceBelievedAtOnce,
    /// H10: the Elector names X while a lease is running.
    NamesUnderLease,
    /// H10b: a Primary answers reads after it closed.
    ReadsAfterClosing,
    /// H10c: a Primary answers reads before its epoch Record is committed.
    ReadsBeforeOpening,
    /// H11: a failed compare is answered at once.
    AnswersUncommitted,
    /// H11b: reads are answered without lease or confirmation.
    ReadsUnconfirmed,
    /// H12: a single Node makes itself a voter.
    SingleVoter,
    /// H13: an old disk keeps its incarnation.
    OldDiskVotes,
    /// H14: a Snapshot above `D`.
    SnapshotAboveChain,
    /// H14b: a Snapshot in the middle of a Chunk.
    SnapshotInsideChunk,
    /// H15: a claim goes to the register's epoch + 1, whatever the voters have refused.
    ClaimIgnoresRefusals,
    /// Section 3: fewer promises than `N - W + 1`.
    TooFewPromises,
    /// Section 4: X is any promiser, not the best.
    AnyPromiser,
    /// Section 4: the fence without the tail.
    FenceWithoutTail,
    /// Section 3: a lost disk keeps its vote.
    LostDiskVotes,
}
