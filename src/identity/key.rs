//! The device's key, made on first use, and its self-signed certificate.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SigningKey, date_time_ymd};
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use super::Fingerprint;
use crate::state_dir::StateDir;
use crate::wire::commands::quoted;
use crate::wire::{Code, Failure};

/// File of the private key, PKCS#8 v1 in PEM, 0600.
pub const KEY_FILE: &str = "device.key";
/// File of the certificate, PEM.
pub const CERTIFICATE_FILE: &str = "device.crt";
/// Length of an Ed25519 SubjectPublicKeyInfo in DER, in bytes.
pub const SPKI_LENGTH: usize = 44;

/// All that whoever reaches the port may learn from the certificate.
const SUBJECT: &str = "pi-remote";
/// SEQUENCE { SEQUENCE { OID 1.3.101.112 } BIT STRING of 32 bytes }: RFC 8410 section 4.
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const FILE_LIMIT: usize = 16 * 1024;
const NEW_IDENTITY: &str =
    "put the right one back, or take on a new identity at the next start and pair every peer again";

/// Whether a certificate that had to be issued is kept.
#[derive(Clone, Copy)]
enum Keep {
    Yes,
    No,
}

/// Fingerprints of keys that were published, in `certs-example/`: anyone can sign with them.
const PUBLISHED: &[&str] = &["sha256:33cb97d5b3e4d83cc3db6c72ab2387147ea2aa3a1e9b8a48b69c78656a930b35"];

/// This device's Ed25519 key and its certificate. The private key is wiped when dropped.
pub struct DeviceKey {
    pkcs8: Zeroizing<Vec<u8>>,
    spki: [u8; SPKI_LENGTH],
    fingerprint: Fingerprint,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DeviceKey").field(&self.fingerprint).finish()
    }
}

impl DeviceKey {
    /// The key of a state directory, made there on first use. A missing certificate is issued anew.
    ///
    /// # Errors
    /// A file is open to others, unreadable or missing beside the other, the certificate is not of
    /// this key, or the key is a published one.
    pub fn load_or_create(dir: &StateDir) -> Result<Self, Failure> {
        match dir.read_secret(KEY_FILE, FILE_LIMIT)? {
            Some(pem) => Self::from_pem(dir, &Zeroizing::new(pem), Keep::Yes),
            None => Self::from_pem(dir, &create(dir)?, Keep::Yes),
        }
    }

    /// The key of a state directory as its files are now; nothing is written, so that a missing
    /// certificate is issued in memory alone.
    ///
    /// # Errors
    /// Those of [`load_or_create`](Self::load_or_create), and: there is none.
    pub fn load(dir: &StateDir) -> Result<Self, Failure> {
        let pem = dir.read_secret(KEY_FILE, FILE_LIMIT)?.ok_or_else(|| missing(dir))?;
        Self::from_pem(dir, &Zeroizing::new(pem), Keep::No)
    }

    fn from_pem(dir: &StateDir, pem: &[u8], keep: Keep) -> Result<Self, Failure> {
        let unreadable = |detail: &dyn std::fmt::Display| {
            let path = dir.join(KEY_FILE);
            let message = format!("{} holds no Ed25519 key: {detail}; {NEW_IDENTITY}", path.display());
            Failure::new(Code::Io, message).hint(away(dir, &[KEY_FILE, CERTIFICATE_FILE]))
        };
        let mut key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|e| unreadable(&e))?;
        let pkcs8 = Zeroizing::new(key.secret_pkcs8_der().to_vec());
        key.zeroize();
        let signer = Signer::new(&pkcs8).map_err(|e| unreadable(&e))?;
        let fingerprint = Fingerprint::of_spki(&signer.spki());
        if is_published(&fingerprint) {
            let path = dir.join(KEY_FILE);
            let message = format!(
                "{} is a published key: anyone can sign with it; without it the next start makes this device's own",
                path.display()
            );
            return Err(Failure::new(Code::VerificationFailed, message).hint(away(dir, &[KEY_FILE, CERTIFICATE_FILE])));
        }
        let certificate = match dir.read(CERTIFICATE_FILE, FILE_LIMIT)? {
            Some(pem) => check_certificate(dir, &pem, &fingerprint)?,
            None => {
                let certificate = issue(&signer)?;
                if matches!(keep, Keep::Yes) {
                    dir.write_new(CERTIFICATE_FILE, certificate.pem().as_bytes())?;
                }
                certificate.der().clone()
            }
        };
        Ok(Self { spki: signer.spki(), fingerprint, certificate, pkcs8 })
    }

    /// A new key with its certificate, kept in memory alone.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, Failure> {
        let pkcs8 = generate_pkcs8()?;
        let signer = Signer::new(&pkcs8).map_err(internal)?;
        let certificate = issue(&signer)?.der().clone();
        Ok(Self { spki: signer.spki(), fingerprint: Fingerprint::of_spki(&signer.spki()), certificate, pkcs8 })
    }

    /// What names this device to its peers.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The SubjectPublicKeyInfo in DER, 44 bytes.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The self-signed certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The private key, lent: a copy of one's own would not be wiped when it is dropped.
    pub fn private_key(&self) -> PrivateKeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()).into()
    }
}

/// Whether the key of this fingerprint was published, so that whoever shows it proves nothing.
pub fn is_published(fingerprint: &Fingerprint) -> bool {
    let text = fingerprint.to_string();
    PUBLISHED.contains(&text.as_str())
}

/// Whether this is the SubjectPublicKeyInfo of an Ed25519 key, in the one encoding it has.
pub fn is_ed25519_spki(spki: &[u8]) -> bool {
    spki.len() == SPKI_LENGTH && spki.starts_with(&SPKI_HEAD)
}

fn create(dir: &StateDir) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if dir.read(CERTIFICATE_FILE, FILE_LIMIT)?.is_some() {
        return Err(missing(dir));
    }
    let pem = to_pem(&generate_pkcs8()?);
    if dir.write_new(KEY_FILE, &pem)? {
        return Ok(pem);
    }
    // Another process was faster; its key is the device's.
    match dir.read_secret(KEY_FILE, FILE_LIMIT)? {
        Some(pem) => Ok(Zeroizing::new(pem)),
        None => Err(Failure::new(Code::Io, format!("{} comes and goes", dir.join(KEY_FILE).display()))),
    }
}

/// A certificate is there and its key is not.
fn missing(dir: &StateDir) -> Failure {
    let (key, certificate) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
    let message = format!("{} is there, but its key {} is not; {NEW_IDENTITY}", certificate.display(), key.display());
    Failure::new(Code::Io, message).hint(away(dir, &[CERTIFICATE_FILE]))
}

/// The command that moves files of the directory out of the way.
fn away(dir: &StateDir, files: &[&str]) -> String {
    let path = |file: &str| dir.join(file).display().to_string();
    let one = |file: &&str| {
        let (from, to) = (path(file), format!("{}.old", path(file)));
        format!("mv {} {}", quoted(&from), quoted(&to))
    };
    files.iter().filter(|file| dir.join(file).exists()).map(one).collect::<Vec<_>>().join(" && ")
}

fn generate_pkcs8() -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Version 1, without the public key: OpenSSL 3.0 cannot read version 2.
    let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(internal)?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

fn check_certificate(dir: &StateDir, pem: &[u8], key: &Fingerprint) -> Result<CertificateDer<'static>, Failure> {
    let path = dir.join(CERTIFICATE_FILE);
    let unreadable = |detail: &dyn std::fmt::Display| {
        let message = format!("{} holds no certificate: {detail}; the next start issues another", path.display());
        Failure::new(Code::Io, message).hint(away(dir, &[CERTIFICATE_FILE]))
    };
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|e| unreadable(&e))?;
    let parsed = ParsedCertificate::try_from(&certificate).map_err(|e| unreadable(&e))?;
    let found = Fingerprint::of_spki(&parsed.subject_public_key_info());
    if found == *key {
        return Ok(certificate);
    }
    let key_path = dir.join(KEY_FILE);
    let message = format!(
        "{} ({found}) is not of the key {} ({key}): put the right key back, or, if this is the right one, have the \
         next start issue its certificate",
        path.display(),
        key_path.display()
    );
    Err(Failure::new(Code::VerificationFailed, message).hint(away(dir, &[CERTIFICATE_FILE])))
}

fn issue(signer: &Signer) -> Result<rcgen::Certificate, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, SUBJECT);
    // Nobody consults the dates: 99991231235959Z says so (RFC 5280 section 4.1.2.5).
    params.not_before = date_time_ymd(1975, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(24 * 3600 - 1);
    params.self_signed(signer).map_err(internal)
}

/// Lends the key to rcgen, which would keep an unwiped copy of one that it owned.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new(pkcs8: &[u8]) -> Result<Self, aws_lc_rs::error::KeyRejected> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(Self)
    }

    fn spki(&self) -> [u8; SPKI_LENGTH] {
        let mut spki = [0; SPKI_LENGTH];
        let (head, key) = spki.split_at_mut(SPKI_HEAD.len());
        head.copy_from_slice(&SPKI_HEAD);
        key.copy_from_slice(self.0.public_key().as_ref());
        spki
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

fn to_pem(pkcs8: &[u8]) -> Zeroizing<Vec<u8>> {
    // The 48 bytes of a version 1 key make one line of 64. Room first, so that no copy is left behind.
    let mut body = Zeroizing::new(String::with_capacity(pkcs8.len() * 2));
    STANDARD.encode_string(pkcs8, &mut body);
    let mut pem = Zeroizing::new(Vec::with_capacity(body.len() + 64));
    for part in ["-----BEGIN PRIVATE KEY-----\n", &body, "\n-----END PRIVATE KEY-----\n"] {
        pem.extend_from_slice(part.as_bytes());
    }
    pem
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, format!("cannot make the device's key or certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;
    use crate::identity::tests::openssl;

    fn fresh() -> (TempDir, StateDir) {
        let temp = TempDir::new().unwrap();
        let state = StateDir::open(&temp.path().join("state")).unwrap();
        (temp, state)
    }

    fn sh(script: &str, dir: &StateDir) -> String {
        let script = format!("set -o pipefail; {script}");
        let output = Command::new("bash").arg("-c").arg(script).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_key_is_made_once_and_found_again() {
        let (_temp, dir) = fresh();
        let made = DeviceKey::load_or_create(&dir).unwrap();
        let found = DeviceKey::load_or_create(&dir).unwrap();
        assert_eq!(made.fingerprint(), found.fingerprint());
        assert_eq!(made.certificate(), found.certificate());
        assert!(is_ed25519_spki(made.spki()));
        assert_eq!(Fingerprint::of_spki(made.spki()), made.fingerprint());
        let mode = |name| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(KEY_FILE), mode(CERTIFICATE_FILE)), (0o600, 0o600));
        assert_ne!(DeviceKey::generate().unwrap().fingerprint(), made.fingerprint());
    }

    #[test]
    fn many_first_starts_at_once_agree_on_one_key() {
        let (_temp, dir) = fresh();
        let fingerprints: Vec<Fingerprint> = std::thread::scope(|scope| {
            let start = || {
                let dir = StateDir::open(dir.path()).unwrap();
                DeviceKey::load_or_create(&dir).unwrap().fingerprint()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(fingerprints.iter().all(|f| f == &fingerprints[0]), "{fingerprints:?}");
    }

    #[test]
    fn openssl_reads_the_key_and_computes_the_same_fingerprint_from_both_files() {
        if openssl::is_missing() {
            return;
        }
        let (_temp, dir) = fresh();
        let key = DeviceKey::load_or_create(&dir).unwrap();
        let from_certificate = "openssl x509 -in device.crt -noout -pubkey | openssl pkey -pubin -outform der";
        let from_key = "openssl pkey -in device.key -pubout -outform der";
        for public in [from_certificate, from_key] {
            let said = sh(&format!("{public} | openssl dgst -sha256 -r"), &dir);
            assert_eq!(format!("sha256:{}", &said[..64]), key.fingerprint().to_string(), "{public}");
        }
    }

    #[test]
    fn the_certificate_says_nothing_but_pi_remote_and_has_no_end() {
        if openssl::is_missing() {
            return;
        }
        let (_temp, dir) = fresh();
        DeviceKey::load_or_create(&dir).unwrap();
        let said = sh("openssl x509 -in device.crt -noout -subject -issuer -dates -nameopt RFC2253", &dir);
        let expected = "subject=CN=pi-remote\nissuer=CN=pi-remote\nnotBefore=Jan  1 00:00:00 1975 GMT\n\
                        notAfter=Dec 31 23:59:59 9999 GMT\n";
        assert_eq!(said, expected);
        assert!(!sh("openssl x509 -in device.crt -noout -text", &dir).contains("X509v3"), "it has extensions");
        assert!(sh("openssl verify -CAfile device.crt device.crt", &dir).contains("OK"), "its signature is wrong");
    }

    #[test]
    fn a_missing_certificate_is_issued_anew_with_the_same_fingerprint() {
        let (_temp, dir) = fresh();
        let before = DeviceKey::load_or_create(&dir).unwrap();
        dir.remove(CERTIFICATE_FILE).unwrap();
        let after = DeviceKey::load_or_create(&dir).unwrap();
        assert_eq!(before.fingerprint(), after.fingerprint());
        assert!(dir.join(CERTIFICATE_FILE).exists());
    }

    #[test]
    fn a_certificate_of_another_key_is_refused_naming_both_files() {
        let (_temp, dir) = fresh();
        let key = DeviceKey::load_or_create(&dir).unwrap();
        let (_other_temp, other) = fresh();
        DeviceKey::load_or_create(&other).unwrap();
        fs::copy(other.join(CERTIFICATE_FILE), dir.join(CERTIFICATE_FILE)).unwrap();
        let failure = DeviceKey::load_or_create(&dir).unwrap_err();
        for part in [dir.join(KEY_FILE).to_str().unwrap(), dir.join(CERTIFICATE_FILE).to_str().unwrap()] {
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(failure.message.contains(&key.fingerprint().to_string()), "{failure}");
        assert!(failure.hint.unwrap().starts_with("mv "));
    }

    #[test]
    fn a_lost_key_is_not_silently_replaced() {
        let (_temp, dir) = fresh();
        DeviceKey::load_or_create(&dir).unwrap();
        dir.remove(KEY_FILE).unwrap();
        let failure = DeviceKey::load_or_create(&dir).unwrap_err();
        assert!(failure.message.contains("is not"), "{failure}");
        assert!(!dir.join(KEY_FILE).exists());
    }

    #[test]
    fn a_key_that_others_may_read_and_one_of_another_kind_are_refused() {
        let (_temp, dir) = fresh();
        DeviceKey::load_or_create(&dir).unwrap();
        fs::set_permissions(dir.join(KEY_FILE), fs::Permissions::from_mode(0o640)).unwrap();
        let failure = DeviceKey::load_or_create(&dir).unwrap_err();
        assert!(failure.hint.unwrap().starts_with("chmod 600 "));
        if openssl::is_missing() {
            return;
        }
        sh(
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out device.key; chmod 600 device.key",
            &dir,
        );
        let failure = DeviceKey::load_or_create(&dir).unwrap_err();
        assert!(failure.message.contains("holds no Ed25519 key"), "{failure}");
    }

    #[test]
    fn a_key_made_by_openssl_is_taken() {
        if openssl::is_missing() {
            return;
        }
        let (_temp, dir) = fresh();
        sh("openssl genpkey -algorithm ed25519 -out device.key; chmod 600 device.key", &dir);
        let key = DeviceKey::load_or_create(&dir).unwrap();
        let said = sh("openssl pkey -in device.key -pubout -outform der | openssl dgst -sha256 -r", &dir);
        assert_eq!(format!("sha256:{}", &said[..64]), key.fingerprint().to_string());
    }

    #[test]
    fn the_key_of_certs_example_is_refused_as_published() {
        let (_temp, dir) = fresh();
        dir.write_atomic(KEY_FILE, include_bytes!("../../certs-example/device.key")).unwrap();
        for certificate in [None, Some(include_bytes!("../../certs-example/device.crt"))] {
            if let Some(pem) = certificate {
                dir.write_atomic(CERTIFICATE_FILE, pem).unwrap();
            }
            let failure = DeviceKey::load_or_create(&dir).unwrap_err();
            assert!(failure.message.contains("is a published key"), "{failure}");
        }
        assert!(!is_published(&DeviceKey::generate().unwrap().fingerprint()));
    }

    #[test]
    fn other_public_keys_are_not_taken_for_ed25519() {
        let key = DeviceKey::generate().unwrap();
        let mut x25519 = key.spki().to_vec();
        x25519[8] = 0x6e;
        let longer = [key.spki(), &[0]].concat();
        for spki in [&x25519[..], &longer, &key.spki()[..43], &[]] {
            assert!(!is_ed25519_spki(spki));
        }
    }
}
