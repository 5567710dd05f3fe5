//! Messages on the wire: the rules' [`Message`] to proto/peer.proto and back. A message that lacks what it
//! must have is refused with a sentence, never guessed at.

use bytes::Bytes;
use rules::message::{Heartbeat, Hello, Message, Promise, Records, State};
use rules::refusal::Refusal;
use rules::revision::{Epoch, Revision};

use super::proto::{self, said::Message as Wire};
use super::{Outbound, TxnAnswer};
use crate::datafile::{Encoded, record};
use crate::standing::{Member, Outcome};

/// As it is sent.
pub(super) fn said(outbound: Outbound) -> proto::Said {
    let wire = match outbound {
        Outbound::Records(head, records) => Wire::Records(records_wire(&head, records)),
        Outbound::Message(message, members) => message_wire(message, &members),
        Outbound::Vote(promise, registration) => Wire::Vote(proto::Vote {
            promise: Some(promise_wire(&promise)),
            registration,
        }),
    };
    proto::Said {
        message: Some(wire),
    }
}

fn message_wire(message: Message, members: &[Member]) -> Wire {
    match message {
        Message::Heartbeat(heartbeat) => Wire::Heartbeat(heartbeat_wire(&heartbeat)),
        Message::State(state) => Wire::State(state_wire(&state, members)),
        Message::Look => Wire::Look(proto::Look {}),
        Message::Prepare(epoch) => Wire::Prepare(proto::Prepare { epoch: epoch.0 }),
        Message::Promise(promise) => Wire::Promise(promise_wire(&promise)),
        Message::Refused(epoch) => Wire::Refused(proto::Refused { epoch: epoch.0 }),
        Message::Hello(hello) => Wire::Hello(hello_wire(&hello)),
        Message::Welcome {
            epoch,
            stream,
            agreed,
        } => Wire::Welcome(proto::Welcome {
            epoch: epoch.0,
            stream,
            agreed: agreed.0,
        }),
        Message::Records(piece) => {
            let records = piece.records.iter().map(record::encode).collect();
            Wire::Records(records_wire(&piece, records))
        }
        Message::Receipt {
            epoch,
            stream,
            revision,
            record_epoch,
        } => Wire::Receipt(proto::Receipt {
            epoch: epoch.0,
            stream,
            revision: revision.0,
            record_epoch: record_epoch.0,
        }),
    }
}

fn newest_wire((epoch, revision): (Epoch, Revision)) -> proto::Newest {
    proto::Newest {
        epoch: epoch.0,
        revision: revision.0,
    }
}

fn promise_wire(promise: &Promise) -> proto::Promise {
    proto::Promise {
        epoch: promise.epoch.0,
        newest: Some(newest_wire(promise.newest)),
        eligible: promise.eligible,
        up: promise.up,
    }
}

fn heartbeat_wire(heartbeat: &Heartbeat) -> proto::Heartbeat {
    let (tenure, active) = heartbeat.tenure.unwrap_or_default();
    proto::Heartbeat {
        sent: heartbeat.sent,
        promised: heartbeat.promised.0,
        newest: Some(newest_wire(heartbeat.newest)),
        committed: heartbeat.committed.0,
        eligible: heartbeat.eligible,
        up: heartbeat.up,
        tenure: tenure.0,
        active,
        hears: heartbeat.hears.unwrap_or_default().0,
        register_seq: heartbeat.register_seq,
    }
}

fn state_wire(state: &State, members: &[Member]) -> proto::State {
    let register = state
        .register
        .as_ref()
        .map(|register| serde_json::to_vec(register).expect("plain structs always serialise"));
    let members = members.iter().cloned().map(|member| proto::Member {
        member_id: member.member_id,
        name: member.name,
        client_urls: member.client_urls,
        peer_urls: member.peer_urls,
    });
    proto::State {
        echo: state.echo,
        grant: state.grant,
        register: register.unwrap_or_default().into(),
        members: members.collect(),
    }
}

fn hello_wire(hello: &Hello) -> proto::Hello {
    let epochs = hello.epochs.iter().map(|(epoch, first)| proto::Opened {
        epoch: epoch.0,
        first: first.0,
    });
    proto::Hello {
        epoch: hello.epoch.0,
        stream: hello.stream,
        boot_seq: hello.boot_seq,
        epochs: epochs.collect(),
        last: hello.last.0,
    }
}

fn records_wire(head: &Records, records: Vec<Bytes>) -> proto::Records {
    proto::Records {
        epoch: head.epoch.0,
        stream: head.stream,
        after: head.after.0,
        records,
        committed: head.committed.0,
        durable: head.durable.0,
    }
}

/// A message as it was meant, and what came with it.
pub(super) struct Meant {
    pub(super) message: Message,
    /// The Records of the message beside their encoding.
    pub(super) records: Vec<Encoded>,
    pub(super) members: Vec<Member>,
    pub(super) registration: Option<Bytes>,
}

impl From<Message> for Meant {
    fn from(message: Message) -> Meant {
        Meant {
            message,
            records: Vec::new(),
            members: Vec::new(),
            registration: None,
        }
    }
}

/// What was said; `None` if it is of a kind that only newer programs know.
///
/// # Errors
/// A sentence, for a message that is not whole.
pub(super) fn meant(said: proto::Said) -> Result<Option<Meant>, String> {
    let Some(wire) = said.message else {
        return Ok(None);
    };
    let message = match wire {
        Wire::Heartbeat(wire) => Message::Heartbeat(heartbeat(&wire)?),
        Wire::State(wire) => return state(wire).map(Some),
        Wire::Look(_) => Message::Look,
        Wire::Prepare(wire) => Message::Prepare(Epoch(wire.epoch)),
        Wire::Promise(wire) => Message::Promise(promise(&wire)?),
        Wire::Refused(wire) => Message::Refused(Epoch(wire.epoch)),
        Wire::Hello(wire) => Message::Hello(hello(&wire)?),
        Wire::Welcome(wire) => Message::Welcome {
            epoch: Epoch(wire.epoch),
            stream: wire.stream,
            agreed: Revision(wire.agreed),
        },
        Wire::Records(wire) => return records(wire).map(Some),
        Wire::Receipt(wire) => Message::Receipt {
            epoch: Epoch(wire.epoch),
            stream: wire.stream,
            revision: Revision(wire.revision),
            record_epoch: Epoch(wire.record_epoch),
        },
        Wire::Vote(wire) => return vote(wire).map(Some),
    };
    Ok(Some(message.into()))
}

fn promise(wire: &proto::Promise) -> Result<Promise, String> {
    Ok(Promise {
        epoch: Epoch(wire.epoch),
        newest: newest(wire.newest)?,
        eligible: wire.eligible,
        up: wire.up,
    })
}

fn vote(wire: proto::Vote) -> Result<Meant, String> {
    let held = wire.promise.ok_or("a vote without its promise")?;
    Ok(Meant {
        registration: Some(wire.registration),
        ..Meant::from(Message::Promise(promise(&held)?))
    })
}

fn newest(wire: Option<proto::Newest>) -> Result<(Epoch, Revision), String> {
    let wire = wire.ok_or("a message without the newest record")?;
    Ok((Epoch(wire.epoch), Revision(wire.revision)))
}

fn heartbeat(wire: &proto::Heartbeat) -> Result<Heartbeat, String> {
    Ok(Heartbeat {
        sent: wire.sent,
        promised: Epoch(wire.promised),
        newest: newest(wire.newest)?,
        committed: Revision(wire.committed),
        eligible: wire.eligible,
        up: wire.up,
        tenure: (wire.tenure > 0).then_some((Epoch(wire.tenure), wire.active)),
        hears: (wire.hears > 0).then_some(Epoch(wire.hears)),
        register_seq: wire.register_seq,
    })
}

fn state(wire: proto::State) -> Result<Meant, String> {
    let register = (!wire.register.is_empty())
        .then(|| serde_json::from_slice(&wire.register))
        .transpose()
        .map_err(|error| format!("a register that cannot be read: {error}"))?;
    let members = wire.members.into_iter().map(|member| Member {
        member_id: member.member_id,
        name: member.name,
        client_urls: member.client_urls,
        peer_urls: member.peer_urls,
    });
    let state = State {
        echo: wire.echo,
        grant: wire.grant,
        register,
    };
    Ok(Meant {
        members: members.collect(),
        ..Meant::from(Message::State(state))
    })
}

fn hello(wire: &proto::Hello) -> Result<Hello, String> {
    let epochs: Vec<(Epoch, Revision)> = wire
        .epochs
        .iter()
        .map(|opened| (Epoch(opened.epoch), Revision(opened.first)))
        .collect();
    if !epochs.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1) {
        return Err("an epoch table that does not rise".to_owned());
    }
    Ok(Hello {
        epoch: Epoch(wire.epoch),
        stream: wire.stream,
        boot_seq: wire.boot_seq,
        epochs,
        last: Revision(wire.last),
    })
}

fn records(wire: proto::Records) -> Result<Meant, String> {
    let mut encoded = Vec::with_capacity(wire.records.len());
    let mut at = Revision(wire.after);
    for bytes in wire.records {
        // A message's buffer is large: what lives on is copied out of it, once.
        let bytes = Bytes::copy_from_slice(&bytes);
        let record = record::decode(&bytes).map_err(|why| format!("record {at}: {why}"))?;
        at = at.next();
        if record.revision != at {
            return Err(format!("record {} in the place of {at}", record.revision));
        }
        encoded.push(Encoded { record, bytes });
    }
    let records = encoded.iter().map(|encoded| encoded.record.clone());
    let piece = Records {
        epoch: Epoch(wire.epoch),
        stream: wire.stream,
        after: Revision(wire.after),
        records: records.collect(),
        committed: Revision(wire.committed),
        durable: Revision(wire.durable),
    };
    Ok(Meant {
        records: encoded,
        ..Meant::from(Message::Records(piece))
    })
}

/// A refusal that a client of another Node is to see.
pub(super) fn refusal_wire(refusal: &Refusal) -> proto::Refusal {
    let kind = match refusal {
        Refusal::NoLeader => 1,
        Refusal::LeaderChanged => 2,
        Refusal::TimedOut => 3,
        Refusal::TooManyRequests => 4,
        Refusal::NoSpace => 5,
        Refusal::KeyNotFound => 6,
        Refusal::Unsupported(_) => 7,
        Refusal::RequestTooLarge => 8,
        Refusal::Compacted { .. } => 9,
        Refusal::FutureRevision => 10,
        _ => 0,
    };
    let floor = match refusal {
        Refusal::Compacted { floor } => floor.0,
        _ => 0,
    };
    proto::Refusal {
        kind,
        text: refusal.to_string(),
        floor,
    }
}

/// As the other Node meant it.
pub(super) fn refusal(wire: proto::Refusal) -> Refusal {
    match wire.kind {
        1 => Refusal::NoLeader,
        2 => Refusal::LeaderChanged,
        3 => Refusal::TimedOut,
        4 => Refusal::TooManyRequests,
        5 => Refusal::NoSpace,
        6 => Refusal::KeyNotFound,
        7 => Refusal::Unsupported(wire.text),
        8 => Refusal::RequestTooLarge,
        9 => Refusal::Compacted {
            floor: Revision(wire.floor),
        },
        10 => Refusal::FutureRevision,
        _ => Refusal::Unavailable(wire.text),
    }
}

/// The answer to a Txn, as it is sent.
pub(super) fn txn_answer_wire(answer: TxnAnswer) -> proto::TxnAnswer {
    use proto::txn_answer::Answer;
    let answer = match answer {
        Ok(outcome) => Answer::Outcome(proto::Outcome {
            succeeded: outcome.succeeded,
            base: outcome.base.0,
            assigned: outcome.assigned.unwrap_or_default().0,
            place: outcome.place.unwrap_or_default() as u64,
        }),
        Err(refusal) => Answer::Refusal(refusal_wire(&refusal)),
    };
    proto::TxnAnswer {
        answer: Some(answer),
    }
}

/// The answer to a Txn; one that is not whole says nothing of what became of it.
pub(super) fn txn_answer(wire: proto::TxnAnswer) -> TxnAnswer {
    use proto::txn_answer::Answer;
    match wire.answer {
        Some(Answer::Outcome(outcome)) => {
            let written = outcome.assigned > 0;
            Ok(Outcome {
                succeeded: outcome.succeeded,
                base: Revision(outcome.base),
                place: written.then_some(usize::try_from(outcome.place).unwrap_or(usize::MAX)),
                assigned: written.then_some(Revision(outcome.assigned)),
            })
        }
        Some(Answer::Refusal(wire)) => Err(refusal(wire)),
        None => Err(Refusal::LeaderChanged),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// As a newer program says it: with a field of its own, number 99, in the message and in what it carries.
    fn said_tomorrow(message: Wire) -> proto::Said {
        let added = [0x9a, 0x06, 3, b'n', b'e', b'w'];
        let said = proto::Said {
            message: Some(message),
        };
        let bytes = said.encode_to_vec();
        // Key, length, and what is carried: all of it is short.
        let (key, carried) = (bytes[0], &bytes[2..]);
        assert_eq!(usize::from(bytes[1]), carried.len());
        let length = u8::try_from(carried.len() + added.len()).unwrap();
        let bytes = [&[key, length], carried, &added, &added].concat();
        proto::Said::decode(&bytes[..]).unwrap()
    }

    #[test]
    fn fields_that_newer_programs_add_are_ignored() {
        let heartbeat = Heartbeat {
            sent: 1,
            promised: Epoch(2),
            newest: (Epoch(2), Revision(3)),
            committed: Revision(3),
            eligible: true,
            up: 4,
            tenure: None,
            hears: Some(Epoch(2)),
            register_seq: 5,
        };
        for message in [
            Message::Heartbeat(heartbeat),
            Message::Look,
            Message::Prepare(Epoch(7)),
            Message::Refused(Epoch(8)),
        ] {
            let said = said_tomorrow(message_wire(message.clone(), &[]));
            assert_eq!(meant(said).unwrap().unwrap().message, message);
        }
    }

    #[test]
    fn a_message_of_an_unknown_kind_counts_as_lost() {
        let bytes = [0x9a, 0x06, 3, b'n', b'e', b'w'];
        let said = proto::Said::decode(&bytes[..]).unwrap();
        assert!(meant(said).unwrap().is_none());
    }

    #[test]
    fn refusals_are_the_same_at_the_other_node() {
        let floor = Revision(7);
        for told in [
            Refusal::KeyNotFound,
            Refusal::Compacted { floor },
            Refusal::FutureRevision,
            Refusal::TooManyRequests,
            Refusal::Unavailable("not now".into()),
        ] {
            let bytes = refusal_wire(&told).encode_to_vec();
            let wire = proto::Refusal::decode(&bytes[..]).unwrap();
            assert_eq!(refusal(wire), told);
        }
    }

    #[test]
    fn a_refusal_of_an_unknown_kind_is_unavailable_in_its_own_words() {
        let wire = proto::Refusal {
            kind: 99,
            text: "as of tomorrow".into(),
            floor: 0,
        };
        let told = Refusal::Unavailable("as of tomorrow".into());
        assert_eq!(refusal(wire), told);
    }

    #[test]
    fn a_vote_is_a_promise_with_its_registration() {
        let promise = Promise {
            epoch: Epoch(4),
            newest: (Epoch(3), Revision(9)),
            eligible: false,
            up: 1,
        };
        let vote = Outbound::Vote(promise.clone(), Bytes::from_static(b"{}"));
        let meant = meant(said(vote)).unwrap().unwrap();
        assert_eq!(meant.message, Message::Promise(promise));
        assert_eq!(meant.registration.as_deref(), Some(&b"{}"[..]));
    }
}
