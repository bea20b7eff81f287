"""What is published: whole, verifiable, and without a key. Keys here are put together, so that none stands in this file."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apibench.cli import cli
from apibench.errors import ApibenchError
from apibench.export import export_store, secrets
from apibench.export.secrets import Scanner
from apibench.imageset import ImageSet, SetWriter
from apibench.query.contract import Answer, ErrorKind, Label, Parsed, ProviderError
from apibench.query.store import Key, ResponseStore
from apibench.report import provenance
from apibench.report.verify import verify_report
from apibench.terminal import run_command
from tests.conftest import paint
from tests.reportmaker import ATTACK, change, make_store, raw
from tests.storemaker import StoreMaker

Streams = pytest.CaptureFixture[str]
HEX = "0a1b2c3d" * 4  # of the form of an Azure key, and of an id of Clarifai
KEYS = {
    "AWS id": "AKIA" + "Z9Y8X7W6V5U4T3S2",
    "AWS temporary id": "ASIA" + "Z9Y8X7W6V5U4T3S2",
    "AWS secret": "aws_secret_access_key = " + "aB3/" * 10,
    "Azure": HEX,
    "Azure, newer": "Zz9" * 17 + "Q" + "JQQJ99" + "BAC" * 5 + "ACOG" + "x1y2",
    "Clarifai": "f" * 31 + "0",
    "Google": "AI" + "za" + "Sy" + "b" * 33,
    "Google token": "ya" + "29." + "c" * 30,
    "header": "Authori" + "zation: " + "Key " + "d" * 20,
    "azure header": "Ocp-Apim-Subscription" + "-Key: " + "e" * 20,
    "bearer": "Bear" + "er " + "g" * 24,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "address": "https://" + "me:hunter22" + "@example.com/",
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(folder: Path) -> str:
    """All that is published, the store's file included, as one text."""
    return "\n".join(path.read_bytes().decode("latin-1") for path in sorted(folder.rglob("*")) if path.is_file())


def with_sets(folder: Path, ids: tuple[str, str] = ("p0", "p1")) -> Path:
    """A run with image sets of two pictures, clean and attacked, as stages write them."""
    maker = StoreMaker(folder / "store.sqlite")
    sources: list[str] = []
    for variant, name in (("clean", "clean"), (ATTACK, "adv")):
        writer = SetWriter(folder / "sets" / name, {"stage": name})
        for number in range(2):
            about = {"source": sources[number]} if sources[number:] else {}
            settings = {"seed": 7, "surrogates": ["file:resnet18=/home/somebody/my.pth"]}
            record = writer.write(ids[number], paint(number + len(name)), variant=variant, settings=settings, **about)
            sources += [record.source] if variant == "clean" else []
        images = writer.finish(list(ids))
        assert images is not None
        maker.store.remember(images)
        for record in images.records:
            key = Key("default", "aws", "emulated", "{}")
            attempts = maker.store.begin(key, [record.sha256], price=0.001, cap=None)
            labels = ["Dog"] if variant == "clean" else ["Fox"]
            answer = Answer(raw(labels), Parsed((Label(labels[0], 0.9),), "3.0"), "request-1")
            maker.store.record_answer(attempts[0], answer, 0.1)
    return maker.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "run")


def fail(store: Path, message: str, body: bytes = b"{}") -> None:
    """Store an error about an image of its own, as one would be that no redactor has seen."""
    with ResponseStore.open(store) as opened:
        attempts = opened.begin(Key("default", "aws", "emulated", "{}"), ["e" * 64], price=0.001, cap=None)
        opened.record_error(attempts[0], ProviderError(ErrorKind.TRANSIENT, "it failed"), 0.1)
    with closing(sqlite3.connect(store)) as connection:
        about = (message, body, "e" * 64)
        connection.execute("UPDATE attempts SET error_message = ?, raw = ? WHERE sha256 = ?", about)
        connection.commit()


def test_a_store_is_exported_and_verified(store: Path, tmp_path: Path, capsys: Streams) -> None:
    before = store.read_bytes()
    out = tmp_path / "published"
    assert run_command(cli, ["export", "--store", str(store), "--out", str(out)]) == 0
    assert "16 responses, 16 attempts, no images" in capsys.readouterr().out
    assert store.read_bytes() == before
    assert {path.name for path in out.iterdir()} == {
        *("README.md", "SHA256SUMS", "store.sqlite", "report"),
        *("responses.jsonl", "attempts.jsonl", "images.jsonl"),
    }
    code = run_command(cli, ["report", "--store", str(out / "store.sqlite"), "--out", str(out / "report"), "--verify"])
    assert code == 0
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout

    # Whoever gets it and changes an answer is found out.
    change(out / "store.sqlite", "UPDATE responses SET raw = replace(raw, 'Fox', 'Dog')")
    assert not verify_report(out / "store.sqlite", out / "report").holds


def test_every_answer_is_there_as_received(store: Path, tmp_path: Path) -> None:
    out = export_store(store, tmp_path / "published").folder
    found = lines(out / "responses.jsonl")
    assert len(found) == 16
    assert {line["raw"] for line in found} == {
        raw(names).decode() for names in (["Dog", "Cat"], ["Fox", "Dog"], ["Dog"])
    }
    first = found[0]
    assert first.keys() == {
        *(
            "campaign",
            "provider",
            "origin",
            "settings",
            "sha256",
            "raw",
            "labels",
            "model_version",
            "request_id",
            "latency",
        ),
        *("received_at", "price", "attempt_id"),
    }
    assert first["labels"][0].keys() == {"name", "score", "id", "parents"}
    assert [line["id"] for line in lines(out / "attempts.jsonl")] == list(range(1, 17))
    assert {line["sha256"] for line in found} == {line["sha256"] for line in lines(out / "images.jsonl")}


def test_a_body_that_is_no_text_is_kept_byte_for_byte(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    maker.ask("A", "clean", ["dog"], raw=b"\x0a\xff\x00")
    out = export_store(maker.close(), tmp_path / "published").folder
    (line,) = lines(out / "responses.jsonl")
    assert line["raw_base64"] == "Cv8A"
    assert "raw" not in line


def test_one_campaign_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may", "secret-june"))
    exported = export_store(store, tmp_path / "published", campaign="may")
    assert exported.responses == 16
    assert "secret-june" not in texts(exported.folder)
    assert verify_report(exported.folder / "store.sqlite", exported.folder / "report").holds
    with pytest.raises(ApibenchError, match=r"has no campaign 'july'; it has: may, secret-june"):
        export_store(store, tmp_path / "other", campaign="july")
    assert not (tmp_path / "other").exists()


def test_the_card_says_what_it_is_and_is_right_about_how_to_read_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    out = export_store(store, tmp_path / "published").folder
    card = (out / "README.md").read_text()
    assert "**EMULATED**" in card
    assert "licences are not known" in card
    assert "16 answers about 16 images made from 4 photographs" in card
    assert "The images are not in it" in card
    monkeypatch.chdir(out)
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(code, {})
    told = capsys.readouterr().out
    assert "aws" in told
    assert "Fox" in told


def test_a_live_store_is_not_called_emulated(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    maker.ask("A", "clean", ["dog"], origin="live")
    card = (export_store(maker.close(), tmp_path / "published").folder / "README.md").read_text()
    assert "EMULATED" not in card
    assert "**live**" in card


# --- images ---


def test_images_only_if_asked(tmp_path: Path) -> None:
    store = with_sets(tmp_path / "run")
    without = export_store(store, tmp_path / "without").folder
    assert not (without / "images").exists()
    assert not (without / "report" / "picture.png").exists()
    assert "data:image/" not in (without / "report" / "index.html").read_text()

    exported = export_store(store, tmp_path / "with", images=True)
    assert (exported.images, exported.missing) == (4, ())
    assert verify_report(exported.folder / "store.sqlite", exported.folder / "report").holds
    assert (exported.folder / "report" / "picture.png").is_file()
    images = ImageSet.load(exported.folder / "images" / "adv")
    assert [record.id for record in images.records] == ["p0", "p1"]
    for record in images.records:
        images.read_pixels(record)
        assert record.settings["surrogates"] == ["file:resnet18=…/my.pth"]
    assert lines(exported.folder / "images.jsonl")[0]["settings"]["seed"] == 7


def test_images_that_are_not_at_hand_are_named(tmp_path: Path, capsys: Streams) -> None:
    store = with_sets(tmp_path / "run")
    (tmp_path / "run" / "sets" / "adv" / "p1.png").write_bytes(b"another")
    code = run_command(cli, ["export", "--store", str(store), "--out", str(tmp_path / "published"), "--images"])
    assert code == 3
    assert "images/adv/p1.png: not at hand, or no longer what was sent" in capsys.readouterr().err
    assert len(list((tmp_path / "published").rglob("images/*/*.png"))) == 3


def test_folders_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for number, folder in enumerate(("a/set", "b/set", "/home/somebody/set")):
        maker.ask("A", f"clean+jpeg/{number}", ["dog"], folder=folder)
    out = export_store(maker.close(), tmp_path / "published").folder
    assert {line["folder"] for line in lines(out / "images.jsonl")} == {"images/set", "images/set-2", "images/set-3"}
    assert "somebody" not in texts(out)


# --- keys, and folders of this machine ---


@pytest.mark.parametrize("kind", [kind for kind in KEYS if kind != "private key"])
def test_a_key_in_an_error_is_taken_out(store: Path, tmp_path: Path, kind: str) -> None:
    fail(store, f"it said {KEYS[kind]} again", f"and {KEYS[kind]} in the body".encode())
    out = export_store(store, tmp_path / "published").folder
    assert KEYS[kind] not in texts(out)
    assert "[removed]" in (out / "attempts.jsonl").read_text()


@pytest.mark.parametrize("kind", [kind for kind in KEYS if KEYS[kind] not in (HEX, KEYS["Clarifai"])])
def test_a_key_in_an_answer_is_told_and_nothing_is_written(tmp_path: Path, kind: str, capsys: Streams) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    maker.ask("A", "clean", ["dog"])
    maker.ask("B", "clean", ["dog"], raw=json.dumps({"echo": KEYS[kind]}).encode())
    maker.close()
    code = run_command(cli, ["export", "--store", str(maker.path), "--out", str(tmp_path / "published")])
    assert code == 2
    told = capsys.readouterr().err
    assert "not written" in told
    assert "table responses, row " in told
    assert "what looks like" in told
    assert KEYS[kind] not in told
    assert {path.name for path in tmp_path.iterdir()} <= {"store.sqlite", "store.sqlite.lock"}


def test_an_id_of_the_form_of_a_key_is_none_where_ids_stand_and_one_elsewhere(tmp_path: Path) -> None:
    """Clarifai's model, answer and request ids are 32 hexadecimal digits, as are its tokens and Azure's keys."""
    maker = StoreMaker(tmp_path / "store.sqlite")
    settings = json.dumps({"model": "general", "model_version": HEX})
    maker.ask("A", "clean", ["dog"], raw=json.dumps({"id": HEX[::-1]}).encode(), settings=settings, version=HEX)
    maker.close()
    assert HEX in (export_store(maker.path, tmp_path / "published").folder / "responses.jsonl").read_text()
    change(maker.path, "UPDATE images SET variant = '" + KEYS["Clarifai"] + "'")
    with pytest.raises(ApibenchError, match="table images, row 1, variant: what looks like a key of 32 hexadecimal"):
        export_store(maker.path, tmp_path / "again")


@pytest.mark.parametrize("column", ["campaign", "settings"])
def test_a_key_in_what_names_an_answer_is_found(tmp_path: Path, column: str) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    about = (
        {"campaign": KEYS["AWS id"]} if column == "campaign" else {"settings": json.dumps({"host": KEYS["address"]})}
    )
    maker.ask("A", "clean", ["dog"], **about)  # type: ignore[arg-type]
    with pytest.raises(ApibenchError, match=f"table attempts, row 1, {column}: "):
        export_store(maker.close(), tmp_path / "published")


@pytest.mark.parametrize("where", ["settings", "recipe"])
def test_a_key_beside_the_store_is_found(tmp_path: Path, where: str) -> None:
    store = with_sets(tmp_path / "run")
    if where == "recipe":
        (tmp_path / "run" / "recipe.toml").write_text(f'name = "x"\n[query.settings.aws]\nkey = "{KEYS["AWS id"]}"\n')
    else:
        manifest = tmp_path / "run" / "sets" / "adv" / "manifest.jsonl"
        manifest.write_text(manifest.read_text().replace('"seed": 7', f'"seed": "{KEYS["Google"]}"'))
    with pytest.raises(ApibenchError, match=r"(recipe\.toml|images\.jsonl), line \d: what looks like"):
        export_store(store, tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_a_key_of_this_process_is_masked_in_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "not-of-any-known-form-" + "x" * 10
    maker = StoreMaker(tmp_path / "store.sqlite")
    maker.ask("A", "clean", ["dog"], raw=json.dumps({"echo": key}).encode())
    maker.close()
    monkeypatch.setenv("ACME_API_KEY", key)
    out = export_store(maker.path, tmp_path / "published").folder
    assert key not in texts(out)
    assert "*" * len(key) in (out / "responses.jsonl").read_text()


def test_what_was_deleted_from_the_store_does_not_come_along(store: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE notes (what TEXT)")
        connection.execute("INSERT INTO notes VALUES ('a note of my own')")
        connection.commit()
    assert "a note of my own" not in texts(export_store(store, tmp_path / "published").folder)


def test_no_folder_of_this_machine_is_in_it(tmp_path: Path) -> None:
    store = with_sets(tmp_path / "run")
    fail(store, f"{tmp_path}/run/sets/x.png: cannot be read")
    (tmp_path / "run" / "recipe.toml").write_text(f'name = "mine"\n[images]\nsource = "{tmp_path}/photos"\n')
    out = export_store(store, tmp_path / "published", images=True).folder
    assert str(tmp_path) not in texts(out)
    assert "/home/" not in texts(out)
    assert 'source = "…/photos"' in (out / "recipe.toml").read_text()


NETS = "/home/alice/my nets"


def test_names_lose_their_folders(tmp_path: Path) -> None:
    """Of a provider or a purifier of somebody's: none of ours has a folder in its name."""
    maker = StoreMaker(tmp_path / "store.sqlite")
    about = {
        "settings": json.dumps({"net": f"file:resnet={NETS}/x.pth"}),
        "version": f"file:resnet18={NETS}/r.pth#0123456789ab",
    }
    for variant in ("clean", ATTACK, f"{ATTACK}+jpeg:50/1+ncis:{NETS}/w.safetensors/2"):
        maker.ask("A", variant, ["dog"], **about)  # type: ignore[arg-type]
    out = export_store(maker.close(), tmp_path / "published").folder
    assert "alice" not in texts(out)
    assert b"alice" not in (out / "store.sqlite").read_bytes()
    assert [line["variant"] for line in lines(out / "images.jsonl")][-1] == f"{ATTACK}+jpeg:50/1+ncis:…/w.safetensors/2"
    assert {json.dumps(line["settings"]) for line in lines(out / "attempts.jsonl")} == {
        json.dumps({"net": "file:resnet=…/x.pth"})
    }
    (line,) = verify_report(out / "store.sqlite", out / "report").differences
    assert line.startswith("labels of acme cannot be read")


def test_names_that_differ_in_a_folder_alone_are_not_made_one(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for number, folder in enumerate("ab"):
        maker.ask(str(number), "clean", ["dog"], settings=json.dumps({"net": f"/srv/{folder}/x.pth"}))
    with pytest.raises(ApibenchError, match=r"table attempts, settings: two of them differ in a folder alone"):
        export_store(maker.close(), tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_a_model_version_that_only_the_answer_names_is_no_key_in_the_report(tmp_path: Path) -> None:
    """As where the adapter of the time did not read it: the byte after it, in a binary message, may look like a digit."""
    maker = StoreMaker(tmp_path / "store.sqlite")
    body = {"Labels": [{"Name": "Dog", "Confidence": 90}], "LabelModelVersion": HEX}
    maker.ask("A", "clean", [Label("Dog", 0.9)], provider="aws", version=None, raw=json.dumps(body).encode())
    assert HEX in (export_store(maker.close(), tmp_path / "published").folder / "report" / "answers.csv").read_text()
    assert HEX in set(secrets.ids(f"\x20{HEX}2"))


def test_words_are_no_keys() -> None:
    for innocent in (
        "Labrador Retriever",
        "a" * 64,
        hashlib.sha256(b"x").hexdigest(),
        "/m/0bt9lr",
        "KEY",
        "token: none",
    ):
        assert Scanner().find(innocent) is None


# --- the folder ---


def test_an_export_replaces_an_export_and_nothing_else(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "published"
    out.mkdir()
    export_store(store, out)
    first = (out / "SHA256SUMS").read_text()
    export_store(store, out)
    assert (out / "SHA256SUMS").read_text() == first  # the same bytes, and the same names
    (out / "LICENCE").write_text("mine")
    with pytest.raises(ApibenchError, match="holds LICENCE, which no export wrote"):
        export_store(store, out)
    assert (out / "LICENCE").read_text() == "mine"
    with pytest.raises(ApibenchError, match="is not a folder"):
        export_store(store, store)


def test_what_fails_leaves_the_old_one_as_it_was(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = export_store(store, tmp_path / "published").folder
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (tmp_path / ".published.part").mkdir()  # of one that was killed
    (tmp_path / ".published.part" / "half").write_text("x")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        patch.setattr("apibench.export.write_report", full)
        with pytest.raises(ApibenchError, match="No space left on device"):
            export_store(store, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not (tmp_path / ".published.part").exists()


@pytest.mark.parametrize("content", [b"", b"not a store"])
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.sqlite").write_bytes(content)
    with pytest.raises(ApibenchError, match=r"store\.sqlite"):
        export_store(tmp_path / "store.sqlite", tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_what_was_edited_since_is_not_lost(store: Path, tmp_path: Path) -> None:
    out = export_store(store, tmp_path / "published").folder
    (out / "README.md").write_text("my licence")
    with pytest.raises(ApibenchError, match=r"README\.md was changed since it was exported, and would be lost"):
        export_store(store, out)
    assert (out / "README.md").read_text() == "my licence"
    (out / "README.md").unlink()
    export_store(store, out)  # what is missing is not lost
    assert (out / "README.md").is_file()


@pytest.mark.parametrize("out", [".", "../cwd/.."])
def test_a_folder_without_a_name_of_its_own_is_refused(store: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.parent / "cwd").mkdir()
    monkeypatch.chdir(store.parent / "cwd")
    with pytest.raises(ApibenchError, match="by a name of its own"):
        export_store(store, Path(out))
    assert store.is_file()


def test_a_replay_of_emulated_answers_is_called_emulated(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    maker.ask("A", "clean", ["dog"], origin="replay of emulated")
    card = (export_store(maker.close(), tmp_path / "published").folder / "README.md").read_text()
    assert "recorded answers were played" in card
    assert "**EMULATED**" in card


# --- photographs and folders have names of all kinds ---


@pytest.mark.parametrize("name", [HEX, f"{HEX.upper()}_2", f"copy-{HEX}", "ab" * 20, "ab" * 32])
def test_photographs_may_be_named_by_a_hash(name: str, tmp_path: Path) -> None:
    store = with_sets(tmp_path / "run", (name, f"{name}-b"))
    out = export_store(store, tmp_path / "published", images=True).folder
    assert [line["file"] for line in lines(out / "images.jsonl") if line["variant"] == ATTACK].count(f"{name}.png") == 1
    assert [record.id for record in ImageSet.load(out / "images" / "adv").records] == [name, f"{name}-b"]
    assert name in (out / "report" / "answers.csv").read_text()
    assert verify_report(out / "store.sqlite", out / "report").holds

    # Of the same form, where no photograph's name stands, it may be a key.
    manifest = tmp_path / "run" / "sets" / "adv" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"seed": 7', f'"seed": "{KEYS["Clarifai"]}"'))
    with pytest.raises(
        ApibenchError, match=r"(manifest|images)\.jsonl, line \d: what looks like a key of 32 hexadecimal digits"
    ):
        export_store(store, tmp_path / "again", images=True)


RECIPE = r"""# run by alice
name = "mine"
out = "alice/out"
[images]
source = "/home/Alice Smith/photos"
max_side = 300
[generate]
epsilon = [8, 16.5]
surrogates = ["file:resnet18=../../alice/w.pth", "pypi:foolbox/alexnet", "file:vgg=C:\\Users\\Alice Smith\\v.pth"]
[query]
record = "file:///home/alice/r.json"
prices = "\\\\host\\alice\\prices.json"
emulated = true
[[purify]]
purifier = "ncis:/srv/alice b/n.safetensors"
"""


def test_a_recipe_is_published_without_folders_and_comments(store: Path, tmp_path: Path) -> None:
    (store.parent / "recipe.toml").write_text(RECIPE)
    out = export_store(store, tmp_path / "published").folder
    assert "alice" not in texts(out).lower()
    assert tomllib.loads((out / "recipe.toml").read_text()) == {
        "name": "mine",
        "out": "…/out",
        "images": {"source": "…/photos", "max_side": 300},
        "generate": {
            "epsilon": [8, 16.5],
            "surrogates": ["file:resnet18=…/w.pth", "pypi:foolbox/alexnet", "file:vgg=…/v.pth"],
        },
        "query": {"record": "file:…/r.json", "prices": "…/prices.json", "emulated": True},
        "purify": [{"purifier": "ncis:…/n.safetensors"}],
    }
    assert verify_report(out / "store.sqlite", out / "report").holds


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("/home/Alice Smith/x.png: cannot be read", "…/x.png: cannot be read"),
        ("not read: /Users/Alice Smith/a/x.png", "not read: …/x.png"),
        ("not read: file:///srv/alice/x.png", "not read: …/x.png"),
        (r"not read: \\host\alice\x.png", "not read: …/x.png"),
        ("file:vgg=../alice b/x.pth", "file:vgg=…/x.pth"),
        ("mi-di/eps16+ncis/2", "mi-di/eps16+ncis/2"),
        ("see https://example.com/a/b", "see https://example.com/a/b"),
        ("https://example.com/a/b", "https://example.com/a/b"),
    ],
)
def test_of_a_path_in_a_text_the_last_name_is_left(given: str, left: str) -> None:
    assert provenance.without_folders(given) == left
