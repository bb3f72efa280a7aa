"""A tiny corpus and its pack: made, prepared, and read, for tests."""

from custom_modules.dataio import Manifest, MixtureDataset
from custom_modules.layout import SUBSETS
from custom_modules.manifest import packing
from custom_modules.mmipc import VARIANTS
from polsess_prepare import prepare_polsess
from tests.manifest.tiny_corpus import TinyCorpus

FRAMES = 400


def make_corpus(root, rows=(8, 3, 3)):
    corpus = TinyCorpus(root, frames=FRAMES)
    for subset, count in zip(SUBSETS, rows, strict=True):
        for row in range(count):
            corpus.add(subset, f"{subset}_{row}", "outdoor" if row % 3 == 2 else "indoor")
    (root / "speakers.csv").write_text("speaker,gender\nval_1,female\n")
    return corpus.write_tables()


def pack(corpus, target, **options):
    packing.pack_corpus(corpus.root, target, SUBSETS, **options)


def contents(folder):
    """Path → bytes of all files but those that say when or where."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def written(folder):
    """Which Arrow file was written when."""
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("data-*.arrow")}


def manifests(root, folder, **options):
    report = prepare_polsess(root, folder, workers=1, **options)
    return [(folder / f"{s}.json").read_bytes() for s in SUBSETS], report


def dataset(folder, root, subset="train", **options):
    manifest = Manifest(folder / f"{subset}.json", {"data_root": str(root)})
    return MixtureDataset(manifest, VARIANTS, **({"task": "SB", "seed": 42} | options))
