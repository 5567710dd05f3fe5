//! The workload: clients that write to whoever accepts it and read wherever reads are granted.

use bytes::Bytes;
use rules::node::Node;
use rules::step::Effect;
use rules::txn::Change;

use crate::world::World;

impl World {
    /// Clients write to whoever accepts it, and read where reads are granted.
    pub(crate) fn clients(&mut self, index: usize) {
        for _ in 0..self.random.between(0, 3) {
            self.written += 1;
            let key = Bytes::from(format!("key-{}", self.random.between(0, 9)));
            let value = Some(Bytes::from(self.written.to_string()));
            let node = &mut self.nodes[index];
            let prev = node.keys.get(&key).copied();
            let change = Change {
                key,
                value,
                lease: 0,
                prev,
            };
            let Some(process) = &mut node.node else {
                return;
            };
            if let Ok(record) = process.assign(&change, 0) {
                self.perform(index, Effect::Append(vec![record]));
            }
        }
        self.compacts(index);
        self.flush(index);
        let node = &self.nodes[index];
        let reads_now = |process: &Node| process.reads_wait_for(self.now).is_none();
        if node.node.as_ref().is_some_and(reads_now) && self.now < node.lease_until {
            self.checks.linearizable_read(index, node.shown);
        }
    }
}
