import pytest
import torch
from torch.nn.functional import conv1d

from custom_modules.errors import InputError
from custom_modules.longform.stitching import CHUNK_SECONDS, Chunker, LongForm
from tests.longform.conversations import RATE, KnowingModel, converse


def run(longform, mixture, block=5000):
    return torch.cat(list(longform.stream(mixture.split(block, dim=1))), dim=1)


@pytest.fixture
def filters():
    """A linear, time-invariant model: two filters of 0.2 s."""
    generator = torch.Generator().manual_seed(1)
    taps = torch.randn(2, 1, 1601, generator=generator)
    taps *= torch.hann_window(1601) / taps.abs().sum(2, keepdim=True)

    def model(mixture):
        padded = torch.nn.functional.pad(mixture.unsqueeze(1), (800, 800))
        return conv1d(padded, taps).transpose(1, 2)

    return model


@pytest.mark.parametrize(
    ("samples", "batch_size", "block"),
    [(1, 1, 1), (16_000, 1, 999), (16_001, 1, 5000), (75_003, 3, 20_000)],
)
def test_a_linear_model_is_as_in_one_pass(filters, samples, batch_size, block):
    mixture = torch.randn(3, samples, generator=torch.Generator().manual_seed(2))
    longform = LongForm(filters, RATE, 2, overlap_seconds=1, batch_size=batch_size)
    torch.testing.assert_close(run(longform, mixture, block), filters(mixture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk_seconds", [CHUNK_SECONDS, 16, 4])
def test_speakers_keep_their_places(chunk_seconds):
    for seed in range(2):
        sources = converse(seed, seconds=max(60, int(4 * chunk_seconds)))
        model = KnowingModel(sources, seed)
        longform = LongForm(model, RATE, chunk_seconds)
        found = run(longform, model.mixture[None], 80_000)[0]
        orders = [sources, sources.flip(1)]
        assert min(float((found - order).abs().max()) for order in orders) < 1e-4, seed


def distance(found, sources):
    """From the sources in the better order."""
    return min(float((found - order).abs().max()) for order in (sources, sources.flip(1)))


@pytest.mark.parametrize("options", [{"match_sign": True}, {"match_level": True}])
@pytest.mark.parametrize("chunk_seconds", [64, 8, 4])
def test_sources_are_upright_whatever_the_sign_of_a_chunk(chunk_seconds, options):
    for seed in range(2):
        sources = converse(seed)
        model = KnowingModel(sources, seed, signs=(1, -1))
        longform = LongForm(model, RATE, chunk_seconds, **options)
        found = run(longform, model.mixture[None])[0]
        assert distance(found, sources) < 1e-3, seed


@pytest.mark.parametrize("leak", [-0.01, 0.01])
def test_a_voice_that_is_heard_late_is_upright(leak):
    """What leaks into its source before is against the mixture, or with it."""
    voices = converse(seed=5, longest_pause=2)
    late = voices[:, 1] * (torch.arange(len(voices)) > 20 * RATE)
    model = KnowingModel(torch.stack([voices[:, 0], late + leak * voices[:, 0]], 1), 5, (1, -1))
    found = run(LongForm(model, RATE, 4, match_sign=True), model.mixture[None])[0]
    products = late @ found
    assert products.max() > 0.9 * late @ late
    assert products.abs().argmax() == products.argmax()
    assert (model.mixture @ found > 0).all()


def test_without_a_fit_sources_go_on_as_they_began():
    sources = converse(seed=1)
    model = KnowingModel(sources, 1)
    longform = LongForm(lambda m: model(m) * torch.tensor([-1, 1]), RATE, 8)
    found = run(longform, model.mixture[None])[0]
    assert distance(found * (sources.sum(1) @ found).sign(), sources) < 1e-4


def test_voices_decide_where_overlaps_are_silent():
    sources = converse(seed=3)[: 12 * RATE]
    active = sources.square().sum(1) > 0
    speech = sources[active][: 6 * RATE]
    pause = torch.zeros(10 * RATE, 2)
    sources = torch.cat([speech, pause, speech.flip(0), pause, speech])
    for seed in range(4):
        model = KnowingModel(sources, seed)
        found = run(LongForm(model, RATE, chunk_seconds=4), model.mixture[None])[0]
        orders = [sources, sources.flip(1)]
        assert min(float((found - order).abs().max()) for order in orders) < 1e-4, seed


def test_one_stream_needs_no_order():
    mixture = torch.randn(1, 50_000)
    longform = LongForm(lambda m: m.unsqueeze(2), RATE, chunk_seconds=1, widen=False)
    torch.testing.assert_close(run(longform, mixture)[..., 0], mixture)


@pytest.mark.parametrize("gain", [0.05, 1.0, 20.0])
def test_sources_sum_to_the_mixture_at_any_level_of_the_model(gain):
    mixture = converse(seed=5).sum(1)[None]
    longform = LongForm(lambda m: gain * torch.stack([m, m / 2], 2), RATE, match_level=True)
    torch.testing.assert_close(run(longform, mixture).sum(2), mixture)


def test_speech_keeps_the_level_that_it_has_in_noise():
    sources = converse(seed=5)
    generator = torch.Generator().manual_seed(0)
    noise = 0.03 * torch.randn(len(sources), generator=generator)
    model = KnowingModel(sources, 5)
    model.places = {
        key.tobytes(): place
        for place, key in enumerate((model.mixture + noise).unfold(0, 4, 1).numpy())
    }
    longform = LongForm(lambda m: 0.1 * model(m), RATE, match_level=True)
    total = run(longform, (model.mixture + noise)[None])[0].sum(1)
    speech = sources.sum(1)
    assert abs(float((total @ speech) / (speech @ speech)) - 1) < 0.1


def test_a_value_that_is_no_number_ends_the_stream():
    """One in the third chunk would make the level of all that follows NaN."""
    calls = []

    def model(mixture):
        calls.append(mixture)
        estimates = torch.stack([mixture, mixture / 2], 2)
        if len(calls) == 3:
            estimates[:, 100, 1] = float("inf")
        return estimates

    options = {"match_level": True, "widen": False, "remedy": "do this"}
    longform = LongForm(model, RATE, 2, 0.5, **options)
    stream = longform.stream(torch.randn(1, 10 * RATE).split(5000, dim=1))
    given = []
    with pytest.raises(InputError, match=rf"no number at {3 + 100 / RATE:.3f} s; do"):
        given.extend(stream)
    assert given
    assert all(torch.isfinite(part).all() for part in given)


def test_silence_stays_silence():
    longform = LongForm(lambda m: torch.stack([m, -m], 2), RATE, match_level=True)
    assert run(longform, torch.zeros(2, 300_000)).abs().max() == 0


def test_memory_does_not_grow_with_length():
    """Never more than a few chunks are read beyond what was returned."""
    longform = LongForm(lambda m: torch.stack([m, m / 2], 2), RATE, 16, batch_size=2)
    taken = []

    def blocks():
        for _ in range(600):
            taken.append(RATE)
            yield torch.randn(1, RATE)

    given = 0
    for part in longform.stream(blocks()):
        assert sum(taken) - given <= 4 * 16 * RATE
        given += part.shape[1]
    assert given == 600 * RATE


def test_overlaps_are_widened_to_reach_speech():
    stream = torch.zeros(1, 400)
    stream[0, :70] = 1
    chunker = Chunker(length=100, overlap=10, sample_rate=10)
    starts = [start for start, _ in chunker([stream])]
    # The second one looks back over the pause to the last second of speech.
    # From there on there is nothing but silence to look for.
    assert starts == [0, 60, 150, 240, 330]


def test_a_short_rest_gets_context():
    chunker = Chunker(length=100, overlap=10, sample_rate=10, widen=False)
    found = [(start, c.shape[1]) for start, c in chunker([torch.zeros(1, 281)])]
    assert found == [(0, 100), (90, 100), (180, 100), (256, 25)]


def test_overlaps_of_more_than_half_are_refused():
    with pytest.raises(Exception, match="cannot overlap by 3 s"):
        LongForm(lambda m: m, RATE, chunk_seconds=4, overlap_seconds=3)
