//! A TxnRequest from the wire, translated, checked and decided.
//! What must hold is in `netsy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netsy::fuzzing::txn(data));
