"""The one model there is is found: under a prefix, further down, in an archive. Archives that do harm are refused."""

import io
import tarfile
import zipfile

import pytest
from refmap.common.errors import RefmapError
from refmap.models.folder import ModelFolder

FILES = {"attr.pkl": b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "var_names.csv": b"g1\n"}


def put(folder, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in FILES.items():
        (folder / f"{prefix}{name}").write_bytes(data)
    return folder


def check(model, shown=None):
    assert model.has(*FILES) and model.value("attr.pkl") == {"a": 1}
    assert (model.path / "var_names.csv").read_bytes() == b"g1\n"
    if shown:
        assert model.show("attr.pkl") == shown


def test_a_prefix(tmp_path):
    put(tmp_path / "m", "run1_")
    (tmp_path / "m/refmap.yaml").write_text("input: counts")
    model = ModelFolder(tmp_path / "m", "models/m")
    check(model, "models/m/run1_attr.pkl")
    assert model.facts == {"input": "counts"} and model.files() == ["attr.pkl", "refmap.yaml", "var_names.csv"]
    assert model.sha256() == ModelFolder(tmp_path / "m").sha256()
    where = model.path
    del model
    assert not where.exists() and (tmp_path / "m/run1_attr.pkl").exists()


def test_a_model_without_a_prefix_is_taken_before_others(tmp_path):
    put(put(tmp_path / "m"), "old_")
    put(tmp_path / "m/deeper")
    model = ModelFolder(tmp_path / "m", "m")
    check(model, "m/attr.pkl")
    assert model.path == tmp_path / "m"


@pytest.mark.parametrize("name", ["run1_model.pt", "pancreas.pt"])
def test_a_file_by_itself_may_have_any_name(tmp_path, name):
    (tmp_path / name).write_bytes(FILES["attr.pkl"])
    (tmp_path / "attr.pkl").write_bytes(b"not of the model")
    model = ModelFolder(tmp_path / name, f"x/{name}")
    assert model.files() == ["model.pt"] and model.value("model.pt") == {"a": 1}
    assert model.show("model.pt") == f"x/{name}" and not model.has("attr.pkl")


@pytest.mark.parametrize("prefix", ["", "run1_"])
def test_a_folder_above(tmp_path, prefix):
    put(tmp_path / "a/b/model", prefix)
    (tmp_path / "a/readme.txt").write_text("x")
    check(ModelFolder(tmp_path / "a", "a"), f"a/b/model/{prefix}attr.pkl")


@pytest.mark.parametrize("places", [["a/x", "a/y"], ["a", "a"]])
def test_of_several_none_is_taken(tmp_path, places):
    for place, prefix in zip(places, ("one_", "two_")):
        put(tmp_path / place, prefix)
    with pytest.raises(RefmapError, match=r"up/a holds 2 models \((x/)?one_, (y/)?two_\): name the folder"):
        ModelFolder(tmp_path / "a", "up/a")


def packed(tmp_path, kind, names=FILES):
    path = tmp_path / f"model.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in names.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if kind != "tar" else "w") as archive:
            for name, data in names.items():
                entry = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
                entry.name = name
                if entry is not data:
                    entry.size = len(data)
                archive.addfile(entry, None if entry is data else io.BytesIO(data))
    return path


KINDS = ["zip", "tar", "tar.gz", "tgz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("below", ["", "lung/model/", "lung/run1_"])
def test_an_archive(tmp_path, kind, below):
    path = packed(tmp_path, kind, {below + name: data for name, data in FILES.items()})
    model = ModelFolder(path, "m.zip")
    check(model, f"m.zip/{below}attr.pkl")
    assert model.sha256() == ModelFolder(path).sha256() == ModelFolder(put(tmp_path / "plain")).sha256()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../attr.pkl", "/tmp/attr.pkl", "a/../../attr.pkl", "..\\attr.pkl", "C:\\attr.pkl"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, kind, name):
    path = packed(tmp_path, kind, FILES | {name: b"x"})
    with pytest.raises(RefmapError, match="leads out of it"):
        ModelFolder(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    entry = tarfile.TarInfo()
    entry.type, entry.linkname = kind, "/etc/passwd"
    with pytest.raises(RefmapError, match="no file of its own"):
        ModelFolder(packed(tmp_path, "tar", FILES | {"model.pt": entry}))


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = packed(tmp_path, "zip")
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("model.pt")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(RefmapError, match="no file of its own"):
        ModelFolder(path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_would_fill_the_disk_is_not_unpacked(tmp_path, kind, monkeypatch):
    if kind == "tar":  # claims more than it holds
        entry = tarfile.TarInfo()
        entry.size = 10**10
        entry.name, path = "model.pt", tmp_path / "model.tar"
        path.write_bytes(entry.tobuf() + bytes(10240))
    else:
        path = packed(tmp_path, kind, {"model.pt": bytes(10**7)})
    with pytest.raises(RefmapError, match="far more than a model is|cannot be unpacked"):
        ModelFolder(path)
    many = packed(tmp_path, kind, {f"{i}.txt": b"x" for i in range(20)})
    monkeypatch.setattr("refmap.models.places._MOST_FILES", 10)
    with pytest.raises(RefmapError, match="far more than a model is"):
        ModelFolder(many)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_a_sentence(tmp_path, kind):
    data = packed(tmp_path, kind).read_bytes()
    for end in range(0, len(data), 7):
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(data[:end])
        try:
            ModelFolder(path, "cut")
        except RefmapError as error:
            assert str(error).startswith("cut cannot be unpacked")
