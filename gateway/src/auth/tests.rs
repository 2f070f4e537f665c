use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct Fixture {
    auth: Authenticator,
    token: String,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    let mut user = User {
        name: "alice".into(),
        uid: 1000,
        gids: vec![1000],
        role: Role::User,
        password: None,
        token_sha256: None,
    };
    user.set_password(b"correct horse").unwrap();
    let token = user.new_token();
    let mut users = Users::default();
    users.put(user).unwrap();
    users.save(&path).unwrap();
    Fixture { auth: Authenticator::new(Policy::Users(path.clone())).unwrap(), token, path, _dir: dir }
}

fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name, value.parse().unwrap())])
}

fn basic(name: &str, password: &str) -> HeaderMap {
    headers(header::AUTHORIZATION, &format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
}

#[tokio::test]
async fn a_user_is_known_by_token_password_cookie_and_certificate() {
    let f = fixture();
    let name = |found: Result<Arc<Identity>, Denied>| found.map(|i| i.name.clone());
    let bearer = headers(header::AUTHORIZATION, &format!("Bearer {}", f.token));
    assert_eq!(name(f.auth.authenticate(&bearer, None, HERE).await), Ok("alice".into()));
    assert_eq!(
        name(f.auth.authenticate(&basic("alice", "correct horse"), None, HERE).await),
        Ok("alice".into())
    );
    assert_eq!(name(f.auth.authenticate(&basic("alice", "wrong"), None, HERE).await), Err(Denied::Wrong));
    assert_eq!(name(f.auth.authenticate(&HeaderMap::new(), None, HERE).await), Err(Denied::Missing));
    assert_eq!(name(f.auth.authenticate(&HeaderMap::new(), Some("alice"), HERE).await), Ok("alice".into()));
    assert_eq!(name(f.auth.authenticate(&HeaderMap::new(), Some("bob"), HERE).await), Err(Denied::Missing));
    let secret = f.auth.login("alice", "correct horse", HERE).await.unwrap();
    let session = headers(header::COOKIE, &format!("other=1; {COOKIE}={secret}"));
    assert_eq!(name(f.auth.authenticate(&session, None, HERE).await), Ok("alice".into()));
    f.auth.logout(&session);
    assert_eq!(name(f.auth.authenticate(&session, None, HERE).await), Err(Denied::Missing));
}

#[tokio::test]
async fn an_address_that_guesses_has_to_wait() {
    let f = fixture();
    let wrong = headers(header::AUTHORIZATION, "Bearer quarry_0");
    for _ in 0..FAILURES_MAX {
        assert_eq!(f.auth.authenticate(&wrong, None, HERE).await, Err(Denied::Wrong));
    }
    assert_eq!(f.auth.authenticate(&wrong, None, HERE).await, Err(Denied::TooMany));
    assert_eq!(f.auth.login("alice", "correct horse", HERE).await, Err(Denied::TooMany));
    let there: IpAddr = "10.0.0.1".parse().unwrap();
    assert!(f.auth.login("alice", "correct horse", there).await.is_ok());
}

#[tokio::test]
async fn a_user_that_was_removed_is_refused() {
    let f = fixture();
    let right = basic("alice", "correct horse");
    assert!(f.auth.authenticate(&right, None, HERE).await.is_ok());
    Users::default().save(&f.path).unwrap();
    f.auth.state().looked = None;
    assert_eq!(f.auth.authenticate(&right, None, HERE).await, Err(Denied::Wrong));
}

#[tokio::test]
async fn without_authentication_everybody_is_the_given_user() {
    let me = Arc::new(Identity::of_process());
    let auth = Authenticator::new(Policy::Open(me.clone())).unwrap();
    assert_eq!(auth.authenticate(&HeaderMap::new(), None, HERE).await, Ok(me));
}
