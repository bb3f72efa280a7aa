"""What generator and preparation must agree upon."""

from hypothesis import given
from hypothesis import strategies as st

from custom_modules import layout
from custom_modules.layout import ENDINGS

# Few names, so that a folder often has that of another speaker.
NAMES = st.sampled_from(["6892", "10179", "anna", "jan"])
FOLDERS = st.lists(NAMES, max_size=4).map(lambda names: [*names, "7.wav"])


@given(FOLDERS, NAMES, st.sets(NAMES), st.sets(NAMES))
def test_a_path_with_its_speaker_tells_the_speaker(folders, speaker, others, left_out):
    path = "/".join(folders)
    named = layout.with_speaker(path, speaker, others | {speaker})
    assert named in (path, f"{speaker}/{path}")
    # A list of speakers may lack those whose recordings no subset has.
    listed = (others - left_out) | {speaker}
    assert layout.speaker_of(named, listed) == speaker
    assert layout.speaker_of(named.replace("/", "\\"), listed) == speaker
    assert layout.speaker_of(f"{named};jan/anna/8.wav", listed) == speaker


def test_every_layer_has_a_column_and_a_name_of_its_own():
    assert set(ENDINGS) == set(layout.LAYERS)
    assert {layer.column for layer in layout.LAYERS.values()} < set(layout.COLUMNS)
    assert set(layout.DRY_LAYERS) | set(layout.REVERB_LAYERS) == set(layout.LAYERS)
    assert len(set(ENDINGS.values())) == len(ENDINGS)
    assert list(ENDINGS)[-1] == "mix"
    assert len(layout.COLUMNS) == len(set(layout.COLUMNS)) == 34
