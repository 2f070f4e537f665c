//! Metadata: requests to the NameNode, by kind.

use crate::cache::Cache;
use crate::error::{MutateError, unexpected};
use crate::session::Session;
use crate::traits::Meta;
use async_trait::async_trait;
use quarry_common::ids::{Ino, LeaseGeneration};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Mutation, MutationReply, Query, QueryReply};
use quarry_common::wire::session::{Reply, Request};
use std::sync::Arc;

/// Asks the NameNode what the cache does not know.
pub(crate) struct Metadata {
    session: Arc<Session>,
    cache: Arc<Cache>,
}

impl Metadata {
    pub(crate) fn new(session: Arc<Session>, cache: Arc<Cache>) -> Self {
        Self { session, cache }
    }

    /// The answer to a question, if a lease says that it is still true.
    pub(crate) fn find(&self, query: &Query) -> Option<Result<QueryReply, FsError>> {
        self.cache.find(query)
    }

    /// Tells the NameNode that the inode is open, and gets its attributes.
    ///
    /// # Errors
    /// `Stale` when it is gone.
    pub(crate) async fn open(&self, ino: Ino) -> Result<Attr, FsError> {
        self.ask_attr(ino, Request::Open { ino }).await
    }

    /// Asks what is answered with an inode's attributes, and keeps them as those of a query.
    async fn ask_attr(&self, ino: Ino, request: Request) -> Result<Attr, FsError> {
        let ticket = self.cache.ticket();
        match self.session.ask(request).await? {
            Reply::Attr(attr) => {
                self.cache.store(ticket, &Query::Attr { ino }, &Ok(QueryReply::Attr(attr.clone())));
                Ok(attr)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Changes the namespace exactly once, and hands the answer to `then`, also if the caller has given up.
    ///
    /// # Errors
    /// `TimedOut` if the mount is soft: the change may still happen.
    pub(crate) async fn mutate_then<T: Send + 'static>(
        &self,
        mutation: Mutation,
        then: impl FnOnce(Result<MutationReply, MutateError>) -> T + Send + 'static,
    ) -> Result<T, FsError> {
        let (cache, ticket, about) = (self.cache.clone(), self.cache.ticket(), mutation.clone());
        let learn = move |answer| {
            cache.changed(ticket, &about, &answer);
            then(answer)
        };
        self.session.mutate(mutation, learn).await
    }
}

#[async_trait]
impl Meta for Metadata {
    async fn query(&self, query: Query) -> Result<QueryReply, FsError> {
        if let Some(found) = self.cache.find(&query) {
            return found;
        }
        let ticket = self.cache.ticket();
        let answer = match self.session.ask(Request::Query(query.clone())).await {
            Ok(Reply::Query(reply)) => Ok(reply),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(error),
        };
        self.cache.store(ticket, &query, &answer);
        answer
    }

    async fn mutate(&self, mutation: Mutation) -> Result<MutationReply, MutateError> {
        self.mutate_then(mutation, |result| result).await?
    }

    fn exclusive(&self, ino: Ino) -> Option<LeaseGeneration> {
        if self.cache.is_exclusive(ino) { self.held(ino) } else { None }
    }

    fn held(&self, ino: Ino) -> Option<LeaseGeneration> {
        self.session.ownership().generation(ino)
    }

    fn current(&self, ino: Ino) -> Option<Attr> {
        match self.cache.find(&Query::Attr { ino }) {
            Some(Ok(QueryReply::Attr(attr))) => Some(attr),
            _ => None,
        }
    }

    async fn lease(&self, ino: Ino) -> Result<Attr, FsError> {
        self.ask_attr(ino, Request::Lease { ino }).await
    }
}
