//! Tables as rows: the wire has one list per column, an author sees one struct per row, with `None` for unknown.

use crate::Nanos;
use crate::bindings::admission::exports::sluice::policy::admission_policy::FlowTable;
use crate::bindings::batching::exports::sluice::policy::batching_policy::SequenceTable;
use crate::bindings::routing::exports::sluice::policy::routing_policy::ReplicaTable;
use crate::bindings::shared::sluice::policy::types::{FinishedTable, PreemptedTable};

/// How a value stands in a column of `T`.
pub trait Column<T> {
    fn from_column(value: T) -> Self;
    fn into_column(self) -> T;
}

/// What is known in every row stands for itself; what may be unknown is the type's maximum.
macro_rules! plain_columns {
    ($($type:ident),*) => {$(
        impl Column<$type> for $type {
            fn from_column(value: $type) -> Self {
                value
            }

            fn into_column(self) -> $type {
                self
            }
        }

        impl Column<$type> for Option<$type> {
            fn from_column(value: $type) -> Self {
                (value != $type::MAX).then_some(value)
            }

            fn into_column(self) -> $type {
                self.unwrap_or($type::MAX)
            }
        }
    )*};
}

plain_columns!(u32, u64, i32, f64);

/// A small open set on the wire: what a policy does not know is `Other`, never an error.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($case:ident = $code:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {
            $($case,)*
            Other(u8),
        }

        impl Column<u8> for $name {
            fn from_column(code: u8) -> Self {
                match code {
                    $($code => Self::$case,)*
                    other => Self::Other(other),
                }
            }

            fn into_column(self) -> u8 {
                match self {
                    $(Self::$case => $code,)*
                    Self::Other(code) => code,
                }
            }
        }
    };
}

codes! {
    /// Where a sequence stands in its life on a replica.
    Phase { Waiting = 1, Prefill = 2, Decode = 3, Preempted = 4 }
}
codes! {
    ReplicaState { Ready = 1, Draining = 2, Lost = 3 }
}
codes! {
    FinishReason { Stop = 1, Length = 2, Cancelled = 3, Failed = 4 }
}

/// A row struct and its way from and into the table; every column is named once.
macro_rules! rows {
    (
        $(#[$meta:meta])*
        $row:ident of $table:ident { $first:ident: $first_type:ty, $($column:ident: $type:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub struct $row {
            pub $first: $first_type,
            $(pub $column: $type,)*
        }

        impl $table {
            /// The table's rows, in its order.
            pub fn rows(&self) -> impl DoubleEndedIterator<Item = $row> + ExactSizeIterator + Clone + '_ {
                (0..self.$first.len()).map(|at| $row {
                    $first: Column::from_column(self.$first[at]),
                    $($column: Column::from_column(self.$column[at]),)*
                })
            }

            /// For tests: views are otherwise made by the host.
            pub fn push(&mut self, row: $row) {
                self.$first.push(row.$first.into_column());
                $(self.$column.push(row.$column.into_column());)*
            }
        }

        impl FromIterator<$row> for $table {
            fn from_iter<I: IntoIterator<Item = $row>>(rows: I) -> Self {
                let mut table = Self::default();
                rows.into_iter().for_each(|row| table.push(row));
                table
            }
        }
    };
}

rows! {
    /// A sequence that a replica holds. Counts include the tokens of steps in flight.
    Sequence of SequenceTable {
        id: u64,
        tenant: u64,
        priority: i32,
        phase: Phase,
        prompt_tokens: u32,
        computed_tokens: u32,
        generated_tokens: u32,
        max_new_tokens: u32,
        blocks_held: u32,
        blocks_exclusive: u32,
        preemptions: u32,
        arrival: Nanos,
        first_token_time: Option<Nanos>,
        last_token_time: Option<Nanos>,
        deadline: Option<Nanos>,
    }
}

rows! {
    /// A replica. What it has not reported yet is `None`; what is in flight is exact.
    Replica of ReplicaTable {
        id: u32,
        state: ReplicaState,
        in_flight_requests: u32,
        in_flight_tokens: u64,
        running: Option<u32>,
        waiting: Option<u32>,
        waiting_uncached_tokens: Option<u64>,
        kv_used: Option<f64>,
        kv_capacity_tokens: Option<u64>,
        tokens_per_second: Option<f64>,
        ttft_average: Option<Nanos>,
        tpot_average: Option<Nanos>,
        error_rate: Option<f64>,
        cached_prefix_tokens: Option<u32>,
        age: Option<Nanos>,
    }
}

rows! {
    /// A tenant that waits or runs.
    Flow of FlowTable {
        tenant: u64,
        weight: f64,
        queued_requests: u32,
        queued_tokens: u64,
        head_wait: Option<Nanos>,
        head_prompt_tokens: Option<u32>,
        head_max_new_tokens: Option<u32>,
        head_priority: i32,
        in_flight_requests: u32,
        served_tokens: u64,
    }
}

rows! {
    /// A request that ended.
    FinishedRequest of FinishedTable {
        number: u64,
        id: u64,
        tenant: u64,
        replica: u32,
        reason: FinishReason,
        arrival: Nanos,
        scheduled: Option<Nanos>,
        first_token: Option<Nanos>,
        finished: Nanos,
        prompt_tokens: u32,
        cached_tokens: u32,
        generated_tokens: u32,
    }
}

rows! {
    PreemptedSequence of PreemptedTable {
        number: u64,
        id: u64,
        recompute_tokens: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_columns_maximum_is_unknown_and_comes_back_as_it_went() {
        let rows = [Some(7), None, Some(0)].map(|head_wait| Flow {
            tenant: 1,
            weight: 1.0,
            queued_requests: 1,
            queued_tokens: 9,
            head_wait,
            head_prompt_tokens: None,
            head_max_new_tokens: Some(3),
            head_priority: -1,
            in_flight_requests: 0,
            served_tokens: 0,
        });
        let table: FlowTable = rows.into_iter().collect();
        assert_eq!(table.head_wait, [7, u64::MAX, 0]);
        assert_eq!(table.rows().collect::<Vec<_>>(), rows);
    }

    #[test]
    fn a_code_that_is_not_known_is_other() {
        assert_eq!(Phase::from_column(3), Phase::Decode);
        assert_eq!(Phase::from_column(9), Phase::Other(9));
        assert_eq!(Phase::Other(9).into_column(), 9);
    }
}
