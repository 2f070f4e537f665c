//! Metadata: requests to the NameNode, by kind.

use crate::session::Session;
use crate::traits::{Meta, MutateError};
use async_trait::async_trait;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Mutation, MutationReply, Query, QueryReply};
use quarry_common::wire::session::{Reply, Request};
use std::fmt::Debug;
use std::sync::Arc;

/// Asks the NameNode.
pub(crate) struct Metadata {
    session: Arc<Session>,
}

impl Metadata {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session }
    }
}

#[async_trait]
impl Meta for Metadata {
    async fn query(&self, query: Query) -> Result<QueryReply, FsError> {
        match self.session.ask(Request::Query(query)).await? {
            Reply::Query(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    async fn mutate(&self, mutation: Mutation) -> Result<MutationReply, MutateError> {
        self.session.mutate(mutation, |result| result).await?
    }
}

/// An answer that does not belong to its question.
pub(crate) fn unexpected(answer: &dyn Debug) -> FsError {
    tracing::error!(?answer, "the NameNode answers with something else");
    FsError::Io
}
