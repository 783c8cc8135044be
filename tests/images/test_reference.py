"""Names of images."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher._util.errors import ImageError
from launcher.images.reference import Reference, looks_like_path, parse_reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"

# text, canonical, what enroot import is given, the store's name
NAMES = [
    ("debian", "docker.io/library/debian:latest", "docker://library/debian:latest", "docker.io+library+debian+latest"),
    ("debian:12", "docker.io/library/debian:12", "docker://library/debian:12", "docker.io+library+debian+12"),
    ("docker.io/debian:12", "docker.io/library/debian:12", "docker://library/debian:12", "docker.io+library+debian+12"),
    ("index.docker.io/a/b", "docker.io/a/b:latest", "docker://a/b:latest", "docker.io+a+b+latest"),
    ("nvidia/cuda:12.8", "docker.io/nvidia/cuda:12.8", "docker://nvidia/cuda:12.8", "docker.io+nvidia+cuda+12.8"),
    # took the registry for the image's name once: nvcr.io+nvidia.sqsh
    (
        "nvcr.io/nvidia/nemo:26.02", "nvcr.io/nvidia/nemo:26.02",
        "docker://nvcr.io#nvidia/nemo:26.02", "nvcr.io+nvidia+nemo+26.02",
    ),
    (
        "nvcr.io#nvidia/nemo:26.02", "nvcr.io/nvidia/nemo:26.02",
        "docker://nvcr.io#nvidia/nemo:26.02", "nvcr.io+nvidia+nemo+26.02",
    ),
    # kept the colon once: megatron-lm:v1+latest.sqsh
    ("dockerd://megatron-lm:v1", "dockerd://megatron-lm:v1", "dockerd://megatron-lm:v1", "megatron-lm+v1"),
    (
        "megatron-lm:v1", "docker.io/library/megatron-lm:v1",
        "docker://library/megatron-lm:v1", "docker.io+library+megatron-lm+v1",
    ),
    ("localhost:5000/a/b:1", "localhost:5000/a/b:1", "docker://localhost:5000#a/b:1", "localhost=5000+a+b+1"),
    ("localhost/mg", "localhost/mg:latest", "docker://localhost#mg:latest", "localhost+mg+latest"),
    ("10.0.0.7:5000/x", "10.0.0.7:5000/x:latest", "docker://10.0.0.7:5000#x:latest", "10.0.0.7=5000+x+latest"),
    ("[fd00::1]:5000/x:1", "[fd00::1]:5000/x:1", "docker://[fd00::1]:5000#x:1", "ip6fd00==1-5000+x+1"),
    ("[::1]/x:1", "[::1]/x:1", "docker://[::1]#x:1", "ip6==1+x+1"),
    ("Registry.Example:443/team/x", "registry.example:443/team/x:latest",
     "docker://registry.example:443#team/x:latest", "registry.example=443+team+x+latest"),
    # only enroot's '#' makes a registry of a plain word
    ("registry#team/x:1", "registry#team/x:1", "docker://registry#team/x:1", "registry=+team+x+1"),
    (f"a/b@{DIGEST}", f"docker.io/a/b@{DIGEST}", f"docker://a/b@{DIGEST}", f"docker.io+a+b++{HEX}"),
    (f"nvcr.io/a/b:1@{DIGEST}", f"nvcr.io/a/b:1@{DIGEST}", f"docker://nvcr.io#a/b@{DIGEST}", f"nvcr.io+a+b+1+++{HEX}"),
    ("docker://ghcr.io/o/r/i:1", "ghcr.io/o/r/i:1", "docker://ghcr.io#o/r/i:1", "ghcr.io+o+r+i+1"),
    ("podman://localhost/mg:1", "podman://localhost/mg:1", "podman://localhost/mg:1", "localhost+mg+1++podman"),
    ("podman://mg:1", "podman://mg:1", "podman://mg:1", "mg+1++podman"),
    ("dockerd://nvcr.io/a/b:1", "dockerd://nvcr.io/a/b:1", "dockerd://nvcr.io/a/b:1", "nvcr.io+a+b+1++dockerd"),
    (f"podman://{HEX}", f"podman://{HEX}", f"podman://{HEX}", f"{HEX}++podman"),
    (f"dockerd://sha256:{HEX}", f"dockerd://{HEX}", f"dockerd://{HEX}", f"{HEX}++dockerd"),
    (
        "docker.io#a.b/c", "docker.io/a.b/c:latest",
        "docker://registry-1.docker.io#a.b/c:latest", "docker.io+a.b+c+latest",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "canonical", "uri", "name"), NAMES, ids=[each[0][:40] for each in NAMES])
def test_a_name_is_read_and_given_to_others(text: str, canonical: str, uri: str, name: str) -> None:
    reference = parse_reference(text)
    assert (reference.canonical, reference.enroot_uri, reference.file_name) == (canonical, uri, f"{name}.sqsh")
    assert parse_reference(reference.enroot_uri) in (reference, parse_reference(re.sub(r":1@", "@", canonical)))


# The first four are what CloudAI's own tests say of such names.
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nvcr.io#nvidia/pytorch:24.02-py3", "nvcr.io_nvidia__pytorch__24.02-py3.sqsh"),
        ("ditdab.com#org/team/image:latest", "ditdab.com_org_team__image__latest.sqsh"),
        ("registry.invalid:5050#group/project:latest", "registry.invalid:5050_group__project__latest.sqsh"),
        ("nvcr.io/nvidia/nemo:26.02.00", "nvcr.io_nvidia__nemo__26.02.00.sqsh"),
        ("nvidia/cuda:12", "nvidia__cuda__12.sqsh"),
        ("debian:12", "debian__12.sqsh"),
        (f"nvcr.io#nvidia/nemo@{DIGEST}", f"nvcr.io_nvidia__nemo@sha256__{HEX}.sqsh"),
    ],
)
def test_the_name_in_the_cache_of_cloudai(text: str, name: str) -> None:
    assert parse_reference(text).cloudai_name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nvcr.io#nvidia/nemo:26.08", "nvidia+nemo+26.08.sqsh"),
        ("debian:12", "debian+12.sqsh"),
        ("podman://localhost/mg:1", "localhost+mg+1.sqsh"),
        (f"a/b@{DIGEST}", f"a+b+sha256:{HEX}.sqsh"),
    ],
)
def test_the_name_that_enroot_import_gives(text: str, name: str) -> None:
    assert parse_reference(text).enroot_name == name


def test_a_user_is_for_the_registry_and_no_part_of_the_image() -> None:
    with_user = parse_reference("$oauthtoken@nvcr.io#nvidia/nemo:1")
    assert (with_user.user, with_user.enroot_uri) == ("$oauthtoken", "docker://$oauthtoken@nvcr.io#nvidia/nemo:1")
    assert with_user.file_name == parse_reference("nvcr.io/nvidia/nemo:1").file_name
    assert parse_reference(f"me@x.org@nvcr.io/a/b@{DIGEST}").user == "me@x.org"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("nvcr.io/nvidia/ nemo", "' '"),
        ("a\nb", r"'\n'"),
        ("a\x00b", r"'\x00'"),
        ("x" * 2000, "2000 characters"),
        ("a/" * 200 + "b", "255 characters"),
        ("http://nvcr.io/a/b", "'http' is not a scheme"),
        ("Docker://a", "'Docker' is not a scheme"),
        ("nvcr.io/NVIDIA/nemo", "component 'NVIDIA'"),
        ("nvcr.io//nemo", "empty component"),
        ("nvcr.io/nvidia/", "empty component"),
        ("a..b/c.d", "'a..b'"),
        ("a/-b", "component '-b'"),
        ("a/b___c", "component 'b___c'"),
        ("a:", "tag ''"),
        ("a:.b", "tag '.b'"),
        ("a:b:c", "tag 'b:c'"),
        ("a:" + "t" * 129, "tag"),
        ("a@sha256:123", "digest 'sha256:123'"),
        (f"a@sha256:{HEX.upper()}", "digest"),
        (f"a@md5:{HEX}", "digest"),
        ("a@", "nothing follows"),
        ("nvcr.io:port/a", "port 'port'"),
        ("nvcr.io:0/a", "port '0'"),
        ("nvcr.io:70000/a", "port '70000'"),
        ("[::x]/a", "IPv6"),
        ("[::1/a", "IPv6"),
        ("-a.b/c", "registry '-a.b'"),
        ("nvcr.io#a#b", "'#' is in the wrong place"),
        ("nvcr.io/nvidia#nemo:24.07", "'#' is in the wrong place"),
        ("#nvidia/nemo", "registry ''"),
        (HEX, "ID"),
        ("podman://me@x/y", "a user"),
        (f"dockerd://x@{DIGEST}", "a digest"),
        ("/a/x.sqsh", "path of a file"),
        ("x.sqsh", "path of a file"),
        ("m^e@nvcr.io/a", "user 'm^e'"),
    ],
)
def test_an_error_says_which_part_is_wrong(text: str, part: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_reference(text)
    assert part in caught.value.message
    assert caught.value.hint


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ImageError) as caught:
        parse_reference("docker://me:hunter2@nvcr.io/a/b")
    assert "hunter2" not in str(caught.value)
    assert ".credentials" in str(caught.value)


COMPONENTS = st.from_regex(r"[a-z0-9]{1,5}(?:(?:[._]|__|-{1,2})[a-z0-9]{1,5}){0,2}", fullmatch=True)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True).map(lambda tag: tag.replace("+", "-"))
LONG_TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{100,127}", fullmatch=True)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
REGISTRIES = st.sampled_from(
    [
        "",
        "nvcr.io/",
        "localhost/",
        "localhost:5000/",
        "a.b:80/",
        "[::1]/",
        "[::1]:80/",
        "[::1:80]/",
        "word#",
        "docker.io/",
    ]
)
SCHEMES = st.sampled_from(["", "docker://", "dockerd://", "podman://"])
NICE = st.builds(
    lambda scheme, registry, path, tag, digest: f"{scheme}{registry}{path}{tag}{digest if 'd:' not in scheme else ''}",
    SCHEMES,
    REGISTRIES,
    PATHS,
    st.one_of(st.just(""), TAGS.map(":{}".format), LONG_TAGS.map(":{}".format)),
    st.one_of(st.just(""), DIGESTS.map("@{}".format)),
)
NEAR = st.text("abZ019._-+/:#@[]$ ~\n\0é", max_size=40)


def _read(text: str) -> Reference | None:
    try:
        return parse_reference(text)
    except ImageError as error:
        assert error.message
        assert "\n" not in error.message
        assert len(error.message) < 400
        return None


@settings(deadline=None)  # the machine may be busy
@given(st.one_of(NICE, NEAR, st.text(max_size=60)))
@example("[::1]" * 5)
def test_any_text_is_read_or_refused_and_its_canonical_form_stays(text: str) -> None:
    reference = _read(text)
    if reference is not None:
        again = parse_reference(reference.canonical)
        assert again.canonical == reference.canonical
        assert (again.file_name, again.scheme) == (reference.file_name, reference.scheme)
        assert (again.registry, again.path, again.tag, again.digest) == (
            reference.registry, reference.path, reference.tag, reference.digest,
        )  # fmt: skip


@settings(deadline=None)  # the machine may be busy
@given(NICE, NICE)
@example("a/b:c", "a/b/c")
@example(f"a/b:c@{DIGEST}", f"a/b/c@{DIGEST}")
@example(f"x:sha256-{HEX}", f"x@{DIGEST}")
@example(f"x:{HEX}", f"x@{DIGEST}")
@example("podman://x:1", "dockerd://podman/x:1")
@example("foo:5000/x:1", "dockerd://foo_5000/x:1")
@example("[::1]:80/x:1", "[::1:80]/x:1")
@example("word#x/y:1", "dockerd://word/x/y:1")
@example("dockerd://localhost/x:1", "localhost/x:1")
def test_different_images_have_different_file_names(one: str, other: str) -> None:
    first, second = _read(one), _read(other)
    if first is not None and second is not None:
        assert (first.canonical == second.canonical) == (first.file_name == second.file_name)


@settings(deadline=None)  # the machine may be busy
@given(NICE)
@example("a/" * 60 + "b:" + "t" * 128)
@example("r.io/" + "c" * 200 + ":" + "t" * 128)
def test_a_file_name_is_safe_everywhere(text: str) -> None:
    reference = _read(text)
    if reference is not None:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=-]*\.sqsh", reference.file_name)
        assert len(reference.file_name.encode()) <= 255


def test_long_names_differ_by_their_hash() -> None:
    names = {parse_reference(f"r.io/{'c' * 200}:{'t' * 100}{end}").file_name for end in ("a", "b")}
    assert len(names) == 2
    assert all(len(name) == 255 for name in names)


@pytest.mark.parametrize("text", ["/a/b", "./x", "../x", "~/x.sqsh", "x.sqsh", "dir/x.sqsh", "rootfs.tar.gz", ".", "~"])
def test_a_path_is_recognised_by_its_start_or_suffix(text: str) -> None:
    assert looks_like_path(text)


@pytest.mark.parametrize("text", ["nvcr.io/nvidia/nemo:26.08", "debian", "docker://x.sqsh", "megatron-lm:v1"])
def test_everything_else_is_a_name(text: str) -> None:
    assert not looks_like_path(text)
