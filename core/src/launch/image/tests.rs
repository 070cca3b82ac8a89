//! Images are built here byte by byte: honest ones, and every trick that must be refused.
//!
//! Unpacking needs root (owners, whiteouts): without it these tests print why they do nothing.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{getxattr, lgetxattr};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::*;

macro_rules! need_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: unpacking images needs root (chown, mknod, trusted attributes)");
            return;
        }
    };
}

// === a tar, byte by byte ===

#[derive(Default, Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn raw(
        mut self,
        kind: u8,
        name: &str,
        link: &str,
        size: u64,
        data: &[u8],
        edit: impl Fn(&mut Header),
    ) -> Self {
        let mut h = Header::new_ustar();
        h.set_entry_type(EntryType::new(kind));
        h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        h.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_size(size);
        h.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(1_000_000_000);
        edit(&mut h);
        h.set_cksum();
        self.0.extend_from_slice(h.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(b'0', name, "", data.len() as u64, data, |_| {})
    }
    fn dir(self, name: &str) -> Self {
        self.raw(b'5', name, "", 0, b"", |_| {})
    }
    fn symlink(self, name: &str, to: &str) -> Self {
        self.raw(b'2', name, to, 0, b"", |_| {})
    }
    fn link(self, name: &str, to: &str) -> Self {
        self.raw(b'1', name, to, 0, b"", |_| {})
    }
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = 1 + key.len() + 1 + value.len() + 1;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            write!(data, "{length} {key}=").unwrap();
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(b'x', "pax", "", data.len() as u64, &data, |_| {})
    }
    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn tarball() -> Bytes {
    Bytes::default()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(data).unwrap();
    gz.finish().unwrap()
}

fn sha(data: &[u8]) -> String {
    digest::Digest::of(data).to_string()
}

// === a layout ===

/// Files of an image by name; written as a folder or as a tar.
#[derive(Default, Clone)]
struct Layout {
    files: Vec<(String, Vec<u8>)>,
    manifests: Vec<Value>,
}

impl Layout {
    fn blob(&mut self, data: &[u8]) -> String {
        let digest = sha(data);
        self.files
            .push((format!("blobs/sha256/{}", &digest[7..]), data.to_vec()));
        digest
    }
    /// Adds an image of layers given as (stored, plain) and gives its descriptor.
    fn image_of(&mut self, arch: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> Value {
        let config = json!({
            "architecture": arch, "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=b=c"], "Entrypoint": ["/e"], "Cmd": ["x"], "User": "me",
                "WorkingDir": "/w", "Labels": {"l": "v"}, "StopSignal": "SIGINT",
                "ExposedPorts": {"80/tcp": {}}, "Volumes": null},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|(_, p)| sha(p)).collect::<Vec<_>>()},
        });
        let config = config.to_string().into_bytes();
        let config_digest = self.blob(&config);
        let layers: Vec<Value> = layers
            .iter()
            .map(|(stored, _)| {
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": self.blob(stored), "size": stored.len()})
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
            "layers": layers});
        self.document("application/vnd.oci.image.manifest.v1+json", &manifest)
    }
    fn document(&mut self, media_type: &str, value: &Value) -> Value {
        let bytes = value.to_string().into_bytes();
        json!({"mediaType": media_type, "digest": self.blob(&bytes), "size": bytes.len()})
    }
    fn add(&mut self, name: Option<&str>, mut descriptor: Value) -> &mut Self {
        if let Some(name) = name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        self.manifests.push(descriptor);
        self
    }
    fn all(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = self.files.clone();
        all.push((
            "oci-layout".into(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ));
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        all.push(("index.json".into(), index.to_string().into_bytes()));
        all
    }
    fn folder(&self, at: &Path) -> PathBuf {
        for (name, data) in self.all() {
            let path = at.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        }
        at.to_path_buf()
    }
    fn tar(&self) -> Vec<u8> {
        let files = self.all();
        files
            .iter()
            .fold(tarball().dir("blobs/"), |t, (n, d)| t.file(n, d))
            .end()
    }
}

fn here() -> String {
    oci_spec::image::Arch::default().to_string()
}

fn layout(layers: &[Vec<u8>]) -> Layout {
    let mut l = Layout::default();
    let layers: Vec<_> = layers.iter().map(|p| (p.clone(), p.clone())).collect();
    let d = l.image_of(&here(), &layers);
    l.add(Some("app:1"), d);
    l
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn store(&self) -> PathBuf {
        self.path("store")
    }
    fn open(&self, layers: &[Vec<u8>]) -> Result<Image, ImageError> {
        let image = self.path("image");
        let _ = fs::remove_dir_all(&image);
        open(&layout(layers).folder(&image), None, &self.store())
    }
    /// Unpacks one layer that must be refused: with this code, these words, and no trace.
    fn refused(&self, layer: Vec<u8>, code: &str, words: &str) {
        let before = listing(self.dir.path());
        let e = self.open(&[layer]).expect_err(words);
        assert_eq!(e.code(), code, "{e}");
        assert!(e.to_string().contains(words), "{words:?} is not in: {e}");
        assert_eq!(
            fs::read_dir(self.store().join("layers")).unwrap().count(),
            0
        );
        assert_eq!(fs::read_dir(self.store().join("tmp")).unwrap().count(), 0);
        let _ = fs::remove_dir_all(self.path("image"));
        let after = listing(self.dir.path());
        let stray: Vec<_> = after
            .iter()
            .filter(|p| !before.contains(p) && !p.starts_with("store"))
            .collect();
        assert!(stray.is_empty(), "outside: {stray:?}");
    }
}

fn listing(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(dir).unwrap() {
            let e = e.unwrap();
            if e.file_type().unwrap().is_dir() {
                todo.push(e.path());
            }
            all.push(e.path().strip_prefix(root).unwrap().to_path_buf());
        }
    }
    all
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buf = [0u8; 128];
    let n = lgetxattr(path, name, &mut buf).ok()?;
    Some(buf[..n].to_vec())
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

// === honest images ===

#[test]
fn every_form_gives_the_same_layers() {
    need_root!();
    let w = World::new();
    let plain = tarball().dir("./").dir("etc/").file("etc/os", b"x").end();
    let l = layout(std::slice::from_ref(&plain));
    let folder = l.folder(&w.path("folder"));
    let tar = w.path("a.tar");
    fs::write(&tar, l.tar()).unwrap();
    let tgz = w.path("a.tar.gz");
    fs::write(&tgz, gzip(&l.tar())).unwrap();

    let config = json!({"architecture": here(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha(&plain)]}})
        .to_string()
        .into_bytes();
    let id = sha(&config)[7..].to_owned();
    let manifest = |config: &str, layer: &str| {
        json!([{"Config": config, "RepoTags": ["app:1", "app:latest"], "Layers": [layer]}])
            .to_string()
            .into_bytes()
    };
    // The old form, its layer behind a link as Docker wrote it for equal layers.
    let old = w.path("old.tar");
    let bytes = tarball()
        .file(&format!("{id}.json"), &config)
        .file("a/layer.tar", &plain)
        .symlink("b/layer.tar", "../a/layer.tar")
        .file(
            "manifest.json",
            &manifest(&format!("{id}.json"), "b/layer.tar"),
        );
    fs::write(&old, bytes.end()).unwrap();
    // The new form.
    let mut new = l.clone();
    let config_path = format!("blobs/sha256/{id}");
    new.files.push((config_path.clone(), config));
    let layer_path = format!("blobs/sha256/{}", &sha(&plain)[7..]);
    new.files
        .push(("manifest.json".into(), manifest(&config_path, &layer_path)));
    let new_path = w.path("new.tar");
    fs::write(&new_path, new.tar()).unwrap();

    for (path, format, gz) in [
        (&folder, Format::LayoutFolder, false),
        (&tar, Format::LayoutTar, false),
        (&tgz, Format::LayoutTar, true),
        (&old, Format::DockerArchive, false),
        (&new_path, Format::DockerArchive, false),
    ] {
        let source = detect(path).unwrap();
        assert_eq!((source.format, source.gzip), (format, gz), "{path:?}");
        let store = w.path(&format!("store-{}", path.file_name().unwrap().display()));
        let image = open(path, Some("app:1"), &store).unwrap();
        let expected = store.join("layers").join(&sha(&plain)[7..]);
        assert_eq!(image.layers, std::slice::from_ref(&expected), "{path:?}");
        assert_eq!(fs::read(expected.join("etc/os")).unwrap(), b"x");
        if format == Format::DockerArchive {
            assert_eq!(image.digest.hex(), id);
            open(path, Some("docker.io/library/app"), &store).unwrap();
        }
        assert_eq!(
            open(path, None, &store).unwrap(),
            image,
            "second time, from the store"
        );
    }
}

#[test]
fn the_configuration_is_read() {
    need_root!();
    let c = World::new().open(&[]).unwrap().config;
    let s = |t: &str| t.to_owned();
    assert_eq!(c.env, [(s("PATH"), s("/bin")), (s("A"), s("b=c"))]);
    assert_eq!((c.entrypoint, c.cmd), (vec![s("/e")], vec![s("x")]));
    assert_eq!(
        (c.user, c.working_dir, c.stop_signal),
        (s("me"), s("/w"), Some(s("SIGINT")))
    );
    assert_eq!(
        (c.labels["l"].as_str(), c.os.as_str(), c.architecture),
        ("v", "linux", here())
    );
}

#[test]
fn owners_modes_times_links_and_attributes_are_kept() {
    need_root!();
    let w = World::new();
    // A capability with a newline byte in it, which pax readers by line would cut.
    let cap: &[u8] = &[
        1, 0, 0, 2, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let long = "d/".repeat(60) + "name";
    let layer = tarball()
        .raw(b'5', "bin/", "", 0, b"", |h| h.set_mode(0o1777))
        .raw(b'0', "bin/su", "", 2, b"su", |h| {
            h.set_mode(0o4755);
            h.set_uid(12);
            h.set_gid(34);
        })
        .pax(&[
            ("SCHILY.xattr.security.capability", cap),
            ("SCHILY.xattr.user.note", b"hi"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("mtime", b"1234567890.5"),
            ("uid", b"70000"),
        ])
        .file("bin/ping", b"ping")
        .link("bin/hard", "bin/su")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .dir("usr/lib/")
        .file("lib/x", b"x")
        .file("abs/y", b"y")
        .symlink("dangling", "../../not/there")
        .file("dangling/z", b"z")
        .pax(&[("path", long.as_bytes())])
        .file("short", b"long")
        .raw(b'6', "fifo", "", 0, b"", |h| h.set_mode(0o620))
        .raw(b'3', "null", "", 0, b"", |h| h.set_device_major(1).unwrap())
        .end();
    let image = w.open(&[layer]).unwrap();
    let root = &image.layers[0];
    let meta = |p: &str| fs::symlink_metadata(root.join(p)).unwrap();
    let su = meta("bin/su");
    assert_eq!(
        (su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()),
        (0o4755, 12, 34, 2)
    );
    assert_eq!(
        (su.mtime(), meta("bin").mtime(), meta("lib").mtime()),
        (1_000_000_000, 1_000_000_000, 1_000_000_000)
    );
    assert_eq!(meta("bin").mode() & 0o7777, 0o1777);
    assert_eq!(meta("bin/hard").ino(), su.ino());
    let ping = meta("bin/ping");
    assert_eq!(
        (ping.mtime(), ping.mtime_nsec(), ping.uid()),
        (1_234_567_890, 500_000_000, 70_000)
    );
    let p = root.join("bin/ping");
    assert_eq!(xattr(&p, "security.capability").as_deref(), Some(cap));
    assert_eq!(xattr(&p, "user.note").as_deref(), Some(&b"hi"[..]));
    assert_eq!(xattr(&p, "trusted.overlay.redirect"), None);
    assert_eq!(xattr(&p, "user.overlay.opaque"), None);
    assert_eq!(fs::read(root.join("usr/lib/x")).unwrap(), b"x");
    assert_eq!(fs::read(root.join("usr/lib/y")).unwrap(), b"y");
    assert_eq!(fs::read(root.join("not/there/z")).unwrap(), b"z");
    assert_eq!(fs::read(root.join(&long)).unwrap(), b"long");
    assert!(meta("fifo").file_type().is_fifo() && meta("fifo").mode() & 0o777 == 0o620);
    assert!(!root.join("null").exists());
    assert_eq!(image.notes.len(), 3, "{:?}", image.notes);
    assert_eq!(w.open(&[]).unwrap().notes.len(), 0);
}

#[test]
fn whiteouts_become_overlayfs_form_and_overlayfs_stacks_them() {
    need_root!();
    let w = World::new();
    let low = tarball()
        .file("gone", b"1")
        .file("kept", b"1")
        .file("dir/old", b"1")
        .file("opaque/old", b"1")
        .file("again/old", b"1")
        .file("before/old", b"1")
        .file("implied/old", b"1")
        .end();
    let top = tarball()
        .file(".wh.gone", b"")
        .file("dir/.wh.old", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"2")
        .file(".wh.again", b"") // deleted, then made again: the old content stays hidden
        .dir("again/")
        .file("again/new", b"2")
        .dir("before/")
        .file("before/new", b"2")
        .file(".wh.before", b"") // the same in the other order
        .file(".wh.implied", b"")
        .file("implied/new", b"2") // no entry for the folder
        .file("kept2", b"2")
        .file(".wh.kept2", b"") // never hides this layer's own file
        .file(".wh..wh.plnk/1", b"")
        .end();
    let image = w
        .open(&[low.clone(), top.clone(), low.clone(), top])
        .unwrap();
    assert_eq!(
        image.layers.len(),
        2,
        "a layer twice is one folder: {:?}",
        image.layers
    );
    let root = &image.layers[1];
    assert!(is_whiteout(&root.join("gone")) && is_whiteout(&root.join("dir/old")));
    for dir in ["opaque", "again", "before", "implied"] {
        let value = xattr(&root.join(dir), "trusted.overlay.opaque");
        assert_eq!(value.as_deref(), Some(&b"y"[..]), "{dir}");
    }

    let merged = w.path("merged");
    for d in ["merged", "upper", "work"] {
        fs::create_dir(w.path(d)).unwrap();
    }
    let lower: Vec<String> = image
        .layers
        .iter()
        .rev()
        .map(|l| l.display().to_string())
        .collect();
    let (upper, work) = (w.path("upper"), w.path("work"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    let mounted = std::process::Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged)
        .output()
        .unwrap();
    if !mounted.status.success() {
        println!(
            "not stacked: no overlayfs here ({})",
            String::from_utf8_lossy(&mounted.stderr)
        );
        return;
    }
    let mut seen: Vec<String> = listing(&merged)
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    seen.sort();
    let ok = std::process::Command::new("umount")
        .arg(&merged)
        .status()
        .unwrap()
        .success();
    assert!(ok, "umount");
    let expected = [
        "again",
        "again/new",
        "before",
        "before/new",
        "dir",
        "implied",
        "implied/new",
        "kept",
        "kept2",
        "opaque",
        "opaque/new",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn layers_may_be_gzip_or_zstd_compressed() {
    need_root!();
    let plain = tarball().file("f", &b"hello ".repeat(100_000)).end();
    // Written by hand: a skippable frame, then raw blocks (RFC 8878, "Block_Type").
    let mut zstd = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
    for frame in plain.chunks(300_000) {
        zstd.extend([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38]); // window 128 KiB
        let blocks: Vec<&[u8]> = frame.chunks(100_000).collect();
        for (i, b) in blocks.iter().enumerate() {
            let head = u32::try_from(b.len()).unwrap() << 3 | u32::from(i + 1 == blocks.len());
            zstd.extend(&head.to_le_bytes()[..3]);
            zstd.extend(*b);
        }
    }
    for (name, stored) in [("gzip", gzip(&plain)), ("zstd", zstd.clone())] {
        let w = World::new();
        let mut l = Layout::default();
        let d = l.image_of(&here(), &[(stored, plain.clone())]);
        l.add(None, d);
        let image = open(&l.folder(&w.path("i")), None, &w.store()).expect(name);
        assert_eq!(
            fs::metadata(image.layers[0].join("f")).unwrap().len(),
            600_000,
            "{name}"
        );
    }
    // A window of terabytes must not be believed.
    let mut huge = zstd;
    huge[16] = 0xf8;
    let cases = [
        (huge, "image_invalid"),
        (b"BZh91AY".to_vec(), "image_unsupported"),
        (b"\xfd7zXZ\0".to_vec(), "image_unsupported"),
    ];
    for (stored, code) in cases {
        let w = World::new();
        let mut l = Layout::default();
        let d = l.image_of(&here(), &[(stored, plain.clone())]);
        l.add(None, d);
        let e = open(&l.folder(&w.path("i")), None, &w.store()).unwrap_err();
        assert_eq!(e.code(), code, "{e}");
    }
}

#[test]
fn folders_without_an_entry_keep_the_looks_of_the_layer_below() {
    need_root!();
    let w = World::new();
    let looks_as = |bits: u32, uid: u64| {
        move |h: &mut Header| {
            h.set_mode(bits);
            h.set_uid(uid);
        }
    };
    let low = tarball()
        .raw(b'5', "./", "", 0, b"", looks_as(0o711, 0))
        .raw(b'5', "tmp/", "", 0, b"", looks_as(0o1777, 0))
        .raw(b'5', "home/", "", 0, b"", looks_as(0o750, 0))
        .raw(b'5', "home/me/", "", 0, b"", looks_as(0o700, 1000))
        .raw(b'5', "gone/", "", 0, b"", looks_as(0o700, 0))
        .raw(b'5', "named/", "", 0, b"", looks_as(0o700, 0))
        .end();
    let top = tarball()
        .raw(b'5', "./", "", 0, b"", looks_as(0o711, 0))
        .file("tmp/x", b"")
        .file("home/me/.profile", b"")
        .file(".wh.gone", b"")
        .file("gone/x", b"")
        .dir("named")
        .file("named/x", b"")
        .end();
    let image = w.open(&[low, top]).unwrap();
    assert_eq!(image.layers.len(), 3);
    let own = &image.layers[2];
    let looks = |p: &str| {
        let m = fs::metadata(own.join(p)).unwrap();
        (m.mode() & 0o7777, m.uid(), m.mtime())
    };
    assert_eq!(looks("tmp"), (0o1777, 0, 1_000_000_000));
    assert_eq!(looks("home"), (0o750, 0, 1_000_000_000));
    assert_eq!(looks("home/me"), (0o700, 1000, 1_000_000_000));
    assert_eq!(looks("."), (0o711, 0, 1_000_000_000));
    assert!(!own.join("gone").exists() && !own.join("named").exists());
}

// === which image ===

#[test]
fn references_and_platforms_choose() {
    need_root!();
    let w = World::new();
    let layer = |n: &str| {
        let p = tarball().file(n, b"").end();
        (p.clone(), p)
    };
    let mut l = Layout::default();
    let a = l.image_of(&here(), &[layer("a")]);
    let b = l.image_of(&here(), &[layer("b")]);
    l.add(Some("one"), a.clone()).add(Some("two"), b.clone());
    let path = l.folder(&w.path("many"));
    let e = open(&path, None, &w.store()).unwrap_err();
    assert_eq!(e.code(), "image_ambiguous");
    assert!(e.to_string().ends_with("name one of: one, two"), "{e}");
    let e = open(&path, Some("three"), &w.store()).unwrap_err();
    assert_eq!(e.code(), "image_not_found");
    assert!(e.to_string().contains("it holds: one, two"), "{e}");
    assert!(
        open(&path, Some("two"), &w.store()).unwrap().layers[0]
            .join("b")
            .exists()
    );
    let by_digest = open(&path, a["digest"].as_str(), &w.store()).unwrap();
    assert!(by_digest.layers[0].join("a").exists());

    let other = if here() == "amd64" { "arm64" } else { "amd64" };
    let on = |d: &Value, arch: &str| {
        let mut d = d.clone();
        d["platform"] = json!({"os": "linux", "architecture": arch});
        d
    };
    let mut l = l.clone();
    l.manifests.clear();
    let foreign = l.image_of(other, &[layer("c")]);
    let mut attestation = on(&b, "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let index = |m: Vec<Value>| json!({"schemaVersion": 2, "manifests": m});
    let media = "application/vnd.oci.image.index.v1+json";
    let mut nested = l.clone();
    let d = nested.document(
        media,
        &index(vec![on(&foreign, other), attestation, on(&b, &here())]),
    );
    let d = nested.document(media, &index(vec![d]));
    nested.add(Some("x"), d);
    let image = open(&nested.folder(&w.path("nested")), None, &w.store()).unwrap();
    assert!(image.layers[0].join("b").exists());

    let mut none = l.clone();
    let d = none.document(
        media,
        &index(vec![on(&foreign, other), on(&foreign, "s390x")]),
    );
    none.add(Some("x"), d);
    let e = open(&none.folder(&w.path("none")), None, &w.store()).unwrap_err();
    assert_eq!(e.code(), "image_unsupported");
    assert!(
        e.to_string()
            .contains(&format!("linux/{other}, linux/s390x")),
        "{e}"
    );
    // The configuration tells as well.
    l.add(None, foreign);
    let e = open(&l.folder(&w.path("foreign")), None, &w.store()).unwrap_err();
    assert!(
        e.to_string()
            .contains(&format!("is for linux/{other}, this machine needs linux/")),
        "{e}"
    );
}

#[test]
fn a_path_that_is_no_image_is_named_for_what_it_is() {
    let w = World::new();
    let put = |name: &str, data: &[u8]| {
        fs::write(w.path(name), data).unwrap();
        w.path(name)
    };
    fs::create_dir_all(w.path("root/usr")).unwrap();
    fs::create_dir_all(w.path("empty")).unwrap();
    let rootfs = tarball().file("etc/passwd", b"").end();
    for (path, code, words) in [
        (w.path("nothing"), "image_not_found", "does not exist"),
        (w.path("empty"), "image_invalid", "oci-layout"),
        (w.path("root"), "image_invalid", "--rootfs"),
        (put("zero", b""), "image_invalid", "an empty file"),
        (put("text", b"hello"), "image_invalid", "neither a tar"),
        (
            put("text.gz", &gzip(b"hello")),
            "image_invalid",
            "neither a tar",
        ),
        (
            put("rootfs.tar", &rootfs),
            "image_invalid",
            "a root file system",
        ),
        (
            put("z.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0]),
            "image_unsupported",
            "zstd",
        ),
        (
            PathBuf::from("/dev/null"),
            "image_invalid",
            "neither a file nor a folder",
        ),
    ] {
        for e in [
            detect(&path).unwrap_err(),
            open(&path, None, &w.store()).unwrap_err(),
        ] {
            assert_eq!(e.code(), code, "{e}");
            assert!(e.to_string().contains(words), "{e}");
        }
    }
}

// === hostile layers ===

#[test]
fn no_entry_reaches_outside_its_layer() {
    need_root!();
    let w = World::new();
    fs::write(w.path("victim"), b"safe").unwrap();
    let victim = w.path("victim").display().to_string();
    for name in ["../x", "a/../../x", "a/..", "..", "/tmp/divvy-evil", "//x"] {
        w.refused(tarball().file(name, b"evil").end(), "image_unsafe", "entry");
    }
    w.refused(tarball().file("a\nb", b"").end(), "image_unsafe", "newline");
    w.refused(
        tarball().pax(&[("path", b"a\0b")]).file("x", b"").end(),
        "image_unsafe",
        "NUL",
    );
    w.refused(tarball().file("", b"").end(), "image_unsafe", "no name");
    w.refused(
        tarball().symlink("./", "/").end(),
        "image_unsafe",
        "own folder",
    );
    w.refused(
        tarball().link("l", "../../../../../victim").end(),
        "image_unsafe",
        "hard link out",
    );
    w.refused(
        tarball().link("l", &victim).end(),
        "image_unsafe",
        "not in this layer",
    );
    w.refused(
        tarball()
            .symlink("up", "../../..")
            .link("l", "up/victim")
            .end(),
        "image_unsafe",
        "not in this layer",
    );
    w.refused(
        tarball().dir("d").link("l", "d").end(),
        "image_unsafe",
        "not a file",
    );
    w.refused(
        tarball().file(".wh.a", b"").link("l", "a").end(),
        "image_unsafe",
        "not a file",
    );
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        w.refused(
            tarball().file(name, b"").end(),
            "image_unsafe",
            "whiteout of no file",
        );
    }
    w.refused(
        tarball().file(".wh.d/x", b"").end(),
        "image_unsafe",
        "under a whiteout",
    );
    w.refused(
        tarball()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", b"")
            .end(),
        "image_unsafe",
        "loop",
    );
    w.refused(
        tarball().file("f", b"").file("f/x", b"").end(),
        "image_invalid",
        "not a folder",
    );
    w.refused(
        tarball()
            .pax(&[("path", "d/".repeat(300).as_bytes())])
            .dir("x")
            .end(),
        "image_unsafe",
        "256",
    );
    w.refused(
        tarball()
            .file(&"n".repeat(100), b"")
            .pax(&[("path", "n".repeat(256).as_bytes())])
            .file("x", b"")
            .end(),
        "image_unsafe",
        "255",
    );
    w.refused(
        tarball()
            .pax(&[("uid", b"4294967295")])
            .file("x", b"")
            .end(),
        "image_invalid",
        "uid",
    );
    w.refused(
        tarball()
            .pax(&[("GNU.sparse.major", b"1")])
            .file("x", b"")
            .end(),
        "image_unsupported",
        "sparse",
    );
    w.refused(
        tarball().raw(b'S', "s", "", 0, b"", |_| {}).end(),
        "image_unsupported",
        "sparse",
    );
    assert_eq!(fs::read(w.path("victim")).unwrap(), b"safe");
}

#[test]
fn links_out_of_a_layer_are_followed_inside_it() {
    need_root!();
    let w = World::new();
    let outside = w.path("outside");
    fs::create_dir(&outside).unwrap();
    let out = outside.display().to_string();
    let layer = tarball()
        .symlink("abs", &out)
        .file("abs/a", b"")
        .symlink("up", "../../../../../../../../tmp")
        .file("up/divvy-image-test-b", b"")
        .symlink("file", &format!("{out}/c"))
        .file("file", b"replaced") // replaces the link, never writes through it
        .symlink("p", "/proc/self/root")
        .file("p/d", b"")
        .dir("swap")
        .file("swap/x", b"")
        .symlink("swap", &out)
        .file("swap/e", b"")
        .symlink("opq", &out)
        .file("opq/.wh..wh..opq", b"")
        .file("opq/.wh.victim", b"")
        .end();
    let image = w.open(&[layer]).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!Path::new("/tmp/divvy-image-test-b").exists());
    let inside = image.layers[0].join(out.trim_start_matches('/'));
    assert!(inside.join("a").exists() && inside.join("e").exists());
    assert!(is_whiteout(&inside.join("victim")));
    assert_eq!(xattr(&outside, "trusted.overlay.opaque"), None);
    assert!(
        fs::symlink_metadata(image.layers[0].join("file"))
            .unwrap()
            .is_file()
    );
}

#[test]
fn bombs_and_cut_archives_are_refused() {
    need_root!();
    let w = World::new();
    let huge = |h: &mut Header| h.set_size(1 << 60);
    w.refused(
        tarball().raw(b'0', "f", "", 0, b"", huge).end(),
        "image_too_large",
        "unpacked size",
    );
    w.refused(
        tarball().raw(b'L', "l", "", 0, b"", huge).end(),
        "image_too_large",
        "tar record",
    );
    w.refused(
        tarball().raw(b'x', "l", "", 0, b"", huge).end(),
        "image_too_large",
        "tar record",
    );
    w.refused(
        tarball()
            .raw(b'g', "l", "", 0, b"", |h| h.set_size(u64::MAX))
            .end(),
        "image_invalid",
        "impossible size",
    );
    w.refused(
        tarball()
            .pax(&[("size", b"18446744073709551615")])
            .file("f", b"")
            .end(),
        "image_too_large",
        "size",
    );
    let cut = tarball().file("f", &[7; 2000]).end();
    w.refused(cut[..1500].to_vec(), "image_invalid", "cut off");
    w.refused(cut[..100].to_vec(), "image_invalid", "cut off");
    w.refused(
        b"not a tar, but long enough to be a header".repeat(20),
        "image_invalid",
        "not a tar header",
    );

    let small = Limits {
        unpacked_bytes: 20_000,
        entries_per_layer: 5,
        ..Limits::default()
    };
    let zeros = tarball()
        .file("f", &[0; 15_000])
        .file("g", &[0; 15_000])
        .end();
    let many = (0..6).fold(tarball(), |t, i| t.dir(&format!("{i}"))).end();
    let trailing = {
        let mut t = tarball().end();
        t.resize(50_000, 0);
        t
    };
    for plain in [zeros, many, trailing] {
        let mut l = Layout::default();
        let d = l.image_of(&here(), &[(gzip(&plain), plain)]);
        l.add(None, d);
        let _ = fs::remove_dir_all(w.path("b"));
        let e = open_within(&l.folder(&w.path("b")), None, &w.store(), &small).unwrap_err();
        assert_eq!(e.code(), "image_too_large", "{e}");
        let tgz = w.path("b.tgz");
        fs::write(&tgz, gzip(&l.tar())).unwrap();
        let tiny = Limits {
            unpacked_bytes: 1000,
            ..small
        };
        assert_eq!(
            open_within(&tgz, None, &w.store(), &tiny)
                .unwrap_err()
                .code(),
            "image_too_large"
        );
    }
    let tiny = Limits {
        document_bytes: 10,
        ..small
    };
    let e = open_within(&layout(&[]).folder(&w.path("doc")), None, &w.store(), &tiny).unwrap_err();
    assert_eq!(e.code(), "image_too_large", "{e}");
}

#[test]
fn wrong_digests_are_refused() {
    need_root!();
    let w = World::new();
    let plain = tarball().file("f", b"1").end();
    let good = layout(std::slice::from_ref(&plain));
    // Each blob in turn has another content of the same length.
    for i in 0..good.files.len() {
        let mut bad = good.clone();
        let last = bad.files[i].1.len() - 1;
        bad.files[i].1[last] ^= 1;
        let path = bad.folder(&w.path(&format!("bad{i}")));
        let e = open(&path, None, &w.store()).unwrap_err();
        assert_eq!(e.code(), "image_digest_mismatch", "{e}");
    }
    // The blob is right, the diff id is another.
    let mut l = Layout::default();
    let d = l.image_of(&here(), &[(plain, b"other".to_vec())]);
    l.add(None, d);
    let e = open(&l.folder(&w.path("diff")), None, &w.store()).unwrap_err();
    assert_eq!(e.code(), "image_digest_mismatch", "{e}");
    assert_eq!(fs::read_dir(w.store().join("layers")).unwrap().count(), 0);
    // A blob is missing.
    let path = good.folder(&w.path("missing"));
    fs::remove_file(path.join(&good.files[1].0)).unwrap();
    let e = open(&path, None, &w.store()).unwrap_err();
    assert!(
        e.to_string().contains("is missing") && e.code() == "image_invalid",
        "{e}"
    );
}

#[test]
fn names_in_documents_cannot_leave_the_image() {
    need_root!();
    let w = World::new();
    let write = |name: &str, l: &Layout| l.folder(&w.path(name));
    for (i, digest) in [
        "sha256:../../x",
        "sha256:",
        "../x",
        "sha256:AA",
        "sha512:00",
        "",
    ]
    .iter()
    .enumerate()
    {
        let mut l = Layout::default();
        l.add(None, json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1}));
        let e = open(&write(&format!("d{i}"), &l), None, &w.store()).unwrap_err();
        assert!(
            ["image_invalid", "image_unsupported"].contains(&e.code()),
            "{e}"
        );
        // As a diff id.
        let config = json!({"architecture": here(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest]}});
        let bytes = config.to_string().into_bytes();
        let tar = tarball().file("c.json", &bytes).file(
            "manifest.json",
            json!([{"Config": "c.json", "Layers": ["l.tar"]}])
                .to_string()
                .as_bytes(),
        );
        fs::write(w.path("t.tar"), tar.end()).unwrap();
        let e = open(&w.path("t.tar"), None, &w.store()).unwrap_err();
        assert!(
            ["image_invalid", "image_unsupported"].contains(&e.code()),
            "{e}"
        );
    }
    // Layer and configuration paths of docker archives.
    let config = json!({"architecture": here(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha(b"")]}});
    for (c, l) in [
        ("../../etc/hostname", "l"),
        ("/etc/hostname", "l"),
        ("c", "../../etc/passwd"),
        ("c", "/etc/passwd"),
    ] {
        let tar = tarball().file("c", config.to_string().as_bytes()).file(
            "manifest.json",
            json!([{"Config": c, "Layers": [l]}]).to_string().as_bytes(),
        );
        fs::write(w.path("t.tar"), tar.end()).unwrap();
        assert_eq!(
            open(&w.path("t.tar"), None, &w.store()).unwrap_err().code(),
            "image_unsafe"
        );
    }
    fs::write(
        w.path("t.tar"),
        tarball().file("../manifest.json", b"").end(),
    )
    .unwrap();
    assert_eq!(
        open(&w.path("t.tar"), None, &w.store()).unwrap_err().code(),
        "image_unsafe"
    );
    // A layout whose index or blob is a link to the host, or a fifo.
    let path = write("links", &layout(&[]));
    fs::rename(path.join("index.json"), w.path("index.json")).unwrap();
    std::os::unix::fs::symlink(w.path("index.json"), path.join("index.json")).unwrap();
    assert_eq!(
        open(&path, None, &w.store()).unwrap_err().code(),
        "image_unsafe"
    );
    let good = layout(&[]);
    let path = write("fifo", &good);
    let blob = path.join(&good.files[0].0);
    fs::remove_file(&blob).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &blob,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert_eq!(
        open(&path, None, &w.store()).unwrap_err().code(),
        "image_invalid"
    );
}

#[test]
fn damaged_archives_never_panic_and_never_write_elsewhere() {
    need_root!();
    let w = World::new();
    let plain = tarball()
        .dir("./")
        .symlink("l", "../../../..")
        .file("l/f", b"x")
        .link("h", "l/f")
        .file("d/.wh.x", b"")
        .pax(&[("SCHILY.xattr.user.a", b"b"), ("path", b"long/name")])
        .file("s", &[9; 700])
        .end();
    let l = layout(std::slice::from_ref(&plain));
    let outer = l.tar();
    let zipped = gzip(&outer);
    let before = listing(w.dir.path());
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % n as u64).unwrap()
    };
    let mut opened = 0;
    for round in 0..600 {
        // A damaged layer must get past its digests to reach the unpacker, so a third
        // of the rounds damages it before the image is made.
        let mut bytes = match round % 3 {
            0 => outer.clone(),
            1 => zipped.clone(),
            _ => plain.clone(),
        };
        if random(3) == 0 {
            let keep = random(bytes.len());
            bytes.truncate(keep);
        } else {
            for _ in 0..=random(8) {
                let at = random(bytes.len());
                bytes[at] = u8::try_from(random(256)).unwrap();
            }
        }
        if round % 3 == 2 {
            // Repair the checksums, or nearly every change would end there.
            for block in bytes.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    let mut h = Header::from_byte_slice(block).clone();
                    h.set_cksum();
                    block.copy_from_slice(h.as_bytes());
                }
            }
            bytes = layout(&[bytes]).tar();
        }
        let path = w.path("damaged");
        fs::write(&path, bytes).unwrap();
        let _ = detect(&path);
        match open(&path, None, &w.store()) {
            Ok(_) => opened += 1,
            Err(e) => assert!(!e.to_string().is_empty()),
        }
        // A path that is no image at all does not even make a store.
        if let Ok(mut left) = fs::read_dir(w.store().join("tmp")) {
            assert!(left.next().is_none());
        }
        let _ = fs::remove_dir_all(w.store());
    }
    fs::remove_file(w.path("damaged")).unwrap();
    assert_eq!(listing(w.dir.path()), before);
    println!("{opened} of 600 damaged images were still right");
}

// === the store ===

#[test]
fn two_openers_and_a_dead_one() {
    need_root!();
    let w = World::new();
    let plain = tarball().file("f", &[1; 3_000_000]).end();
    let path = layout(std::slice::from_ref(&plain)).folder(&w.path("i"));
    // What a killed process leaves: of this layer, of another, and a spool file.
    let hex = &sha(&plain)[7..];
    fs::create_dir_all(w.store().join("tmp").join(hex).join("half")).unwrap();
    fs::create_dir_all(w.store().join("tmp").join("0".repeat(64))).unwrap();
    fs::write(w.store().join("tmp/spool-1-1"), b"").unwrap();
    let images: Vec<Image> = std::thread::scope(|s| {
        let all: Vec<_> = (0..8)
            .map(|_| s.spawn(|| open(&path, None, &w.store()).unwrap()))
            .collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(images.windows(2).all(|p| p[0] == p[1]));
    assert_eq!(
        fs::metadata(images[0].layers[0].join("f")).unwrap().len(),
        3_000_000
    );
    assert!(!images[0].layers[0].join("half").exists());
    assert_eq!(fs::read_dir(w.store().join("tmp")).unwrap().count(), 0);
    let mode = |p: &str| {
        fs::metadata(w.store().join(p))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (mode("locks"), mode("layers"), mode("tmp")),
        (0o700, 0o700, 0o700)
    );
    // A folder whose lock is held is left alone.
    let busy = "1".repeat(64);
    fs::create_dir(w.store().join("tmp").join(&busy)).unwrap();
    let lock = fs::File::create(w.store().join("locks").join(&busy)).unwrap();
    lock.lock().unwrap();
    open(&path, None, &w.store()).unwrap();
    assert!(w.store().join("tmp").join(&busy).exists());
}

// === users ===

#[test]
fn users_are_found_in_the_root_file_system() {
    let w = World::new();
    let etc = w.path("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(
        etc.join("passwd"),
        "root:x:0:0:r:/root:/bin/sh\nbroken\nbad:x:abc:1::\nneg:x:-1:0::\nbig:x:4294967295:0::\nme:x:1000:100:Me:/:/bin/sh\n\n:x:5:5::\n",
    )
    .unwrap();
    fs::write(
        etc.join("group"),
        "root:x:0:root\nusers:x:100:\nwheel:x:10:root,me\nvideo:x:44:me\nbad:x:z:me\nshort\n",
    )
    .unwrap();
    let user = |u: &str| lookup_user(w.dir.path(), u).map(|u| (u.uid, u.gid, u.additional_gids));
    assert_eq!(user("").unwrap(), (0, 0, vec![0, 10]));
    assert_eq!(user("me").unwrap(), (1000, 100, vec![10, 44, 100]));
    assert_eq!(user("1000").unwrap(), (1000, 100, vec![10, 44, 100]));
    assert_eq!(user("me:wheel").unwrap(), (1000, 10, vec![10]));
    assert_eq!(user("4242").unwrap(), (4242, 0, vec![0]));
    assert_eq!(user("4242:4343").unwrap(), (4242, 4343, vec![4343]));
    for bad in [
        "nobody",
        "me:nogroup",
        "bad",
        "neg",
        "big",
        "-1",
        "+0",
        "4294967295",
        "me:",
        "a:b:c",
        "x\ny",
    ] {
        let e = user(bad).unwrap_err();
        assert_eq!(e.code(), "image_user_unknown", "{e}");
        assert!(!e.to_string().contains('\n'));
    }
    // A link to the host's file stays in the root; a fifo, a loop and a monster are refused.
    let passwd = etc.join("passwd");
    fs::write(w.path("p"), "host:x:7:7::\n").unwrap();
    let relink = |to: &str| {
        fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink(to, &passwd).unwrap()
    };
    relink("../../../../../../p");
    assert_eq!(user("host").unwrap().0, 7);
    relink(&w.path("p").display().to_string());
    assert_eq!(user("host").unwrap_err().code(), "image_user_unknown");
    relink("passwd");
    assert_eq!(user("0").unwrap_err().code(), "image_unsafe");
    fs::remove_file(&passwd).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert_eq!(user("0").unwrap_err().code(), "image_invalid");
    fs::remove_file(&passwd).unwrap();
    fs::File::create(&passwd).unwrap().set_len(5 << 20).unwrap();
    assert_eq!(user("0").unwrap_err().code(), "image_too_large");
    let mut buf = [0u8; 8];
    assert!(getxattr(&passwd, "user.x", &mut buf).is_err());
}

#[test]
fn another_image_than_was_looked_at_is_not_opened() {
    use crate::launch::FileId;
    let w = World::new();
    let mut l = Layout::default();
    let plain = tarball().dir("bin").end();
    let d = l.image_of(&here(), &[(gzip(&plain), plain)]);
    l.add(None, d);
    let folder = l.folder(&w.path("folder"));
    let tar = w.path("tar");
    fs::write(&tar, l.tar()).unwrap();
    for path in [&folder, &tar] {
        let open = |id| open_same(path, Some(id), None, &w.store());
        open(FileId::at(path).unwrap()).unwrap();
        let other = FileId::at(Path::new("/usr")).unwrap();
        assert_eq!(open(other).unwrap_err().code(), "source_replaced");
    }
}
