"""The selective scan against recorded results, its definition and its own laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules.selective_scan import chunked, compiled, selective_scan
from custom_modules.selective_scan.chunked import chunked_scan
from custom_modules.selective_scan.compiled import compiled_scan
from custom_modules.selective_scan.reference import reference_scan
from tests.selective_scan.cases import (
    NAMES,
    assert_agrees,
    random_inputs,
    recorded_cases,
    relative_error,
    run,
)

RECORDED = recorded_cases()
CHUNKS = {chunked.CHUNK, compiled.CHUNK}
ONES_BESIDE = sorted({n for c in CHUNKS for n in (c - 1, c, c + 1, 2 * c, 2 * c + 1)})

each_scan = pytest.mark.parametrize("scan", [chunked_scan, compiled_scan])


@pytest.mark.parametrize("scan", [chunked_scan, compiled_scan, reference_scan])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_results_are_reproduced(name, scan):
    case = RECORDED[name]
    inputs = [case["inputs"][key] for key in NAMES]
    output, state, *grads = run(scan, inputs, case["grad_output"], case["delta_softplus"])
    assert relative_error(output, case["output"]) < 1e-5
    assert relative_error(state, case["last_state"]) < 1e-5
    expected = [case["grads"][key] for key in NAMES if key in case["grads"]]
    for found, grad in zip(grads, expected, strict=True):
        # At length 1 the gradient of A is exactly 0.
        assert relative_error(found, grad) < 1e-5


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("absent", [(), (5,), (6,), (7,), (5, 6, 7)])
def test_gradients_by_finite_differences(absent, softplus):
    inputs = random_inputs(2, 3, 11, 2, dtype=torch.float64)
    if not softplus:  # steps are positive, or the states would grow
        inputs[1], inputs[7] = inputs[1].abs(), inputs[7].abs()
    inputs = [None if i in absent else x for i, x in enumerate(inputs)]
    present = [x.requires_grad_() for x in inputs if x is not None]

    def function(*_):
        return chunked_scan(*inputs, softplus, chunk=4)

    # Both the output and the last state are differentiated.
    assert torch.autograd.gradcheck(function, present)


@each_scan
@pytest.mark.parametrize("time", [1, 2, *ONES_BESIDE, 1000])
def test_every_length(time, scan):
    assert_agrees(scan, random_inputs(2, 3, time, 4))


@each_scan
@pytest.mark.parametrize("state", [1, 2, 3, 16, 33, 64, 256])
def test_every_state_size(state, scan):
    assert_agrees(scan, random_inputs(2, 5, 21, state))


@each_scan
@pytest.mark.parametrize("state", [15, 17, 33, 255])
def test_odd_states_of_more_channels_than_a_block_holds(state, scan):
    assert_agrees(scan, random_inputs(1, 300, 18, state))


@each_scan
@pytest.mark.parametrize(
    ("batch", "dim"), [(1, 1), (3, 7), (37, 100), (5, 129), (70, 16), (2, 300)]
)
def test_every_batch_and_channel_size(batch, dim, scan):
    """Some of them are cut into tiles, the last one smaller."""
    assert_agrees(scan, random_inputs(batch, dim, 9, 16))


@each_scan
@given(
    # Several channels: a single sum may come near 0, and its digits cancel.
    sizes=st.tuples(*map(st.integers, (1, 4, 1, 1), (4, 6, 30, 8))),
    chunk=st.integers(1, 40),
    absent=st.sets(st.sampled_from([5, 6, 7])),
    softplus=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_any_shape_and_any_chunk(sizes, chunk, absent, softplus, seed, scan):
    inputs = random_inputs(*sizes, seed=seed)
    if not softplus:
        inputs[1], inputs[7] = inputs[1].abs(), inputs[7].abs()
    inputs = [None if i in absent else x for i, x in enumerate(inputs)]
    assert_agrees(scan, inputs, softplus=softplus, chunk=chunk)


@each_scan
def test_results_do_not_depend_on_threads(scan):
    inputs, grad = random_inputs(9, 256, 10, 16), torch.randn(9, 256, 10)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(run(scan, inputs, grad))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        if scan is compiled_scan:
            assert torch.equal(a, b)
        assert relative_error(a, b) < 1e-6


@each_scan
@pytest.mark.parametrize("rate", [0.0, 1e-4, 10.0, 80.0, 1e4])
def test_no_decay_and_strong_decay(rate, scan):
    """``delta`` times A reaches the rate, over a hundred steps."""
    inputs = random_inputs(2, 3, 100, 4)
    inputs[1] = torch.ones_like(inputs[1])
    inputs[2] = torch.full_like(inputs[2], -rate)
    inputs[7] = None
    assert_agrees(scan, inputs, softplus=False)


def test_strong_decay_forgets_and_no_decay_remembers():
    ones = torch.ones(1, 1, 50)
    forgetful = selective_scan(ones, ones, torch.full((1, 1), -1e3), ones, ones)
    assert torch.equal(forgetful, ones)
    summed = selective_scan(ones, ones, torch.zeros(1, 1), ones, ones)
    assert torch.equal(summed, ones.cumsum(2))


@each_scan
def test_inputs_may_lie_anyhow_in_memory(scan):
    batch, dim, time, state = 3, 10, 19, 4
    inputs = random_inputs(batch, dim, time, state)
    scattered = list(inputs)
    for index in (0, 1, 3, 4, 6):
        x = inputs[index]
        wide = torch.randn(time, 2 * batch, x.shape[1] + 3)
        view = wide.permute(1, 2, 0)[::2, 3:]
        view.copy_(x)
        scattered[index] = view
    scattered[2] = inputs[2].t().contiguous().t()
    scattered[0] = inputs[0][:1].expand(batch, dim, time)
    inputs[0] = scattered[0].contiguous()
    grad = torch.randn(dim, time).expand(batch, dim, time)
    for a, b in zip(run(scan, scattered, grad), run(scan, inputs, grad.contiguous()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@each_scan
def test_inputs_are_not_modified(scan):
    inputs = random_inputs(2, 3, 20, 4)
    copies = [x.clone() for x in inputs]
    run(scan, inputs, torch.randn(2, 3, 20))
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


@pytest.mark.parametrize("backend", ["eager", "numba", "reference"])
def test_groups_are_scans_of_their_own(backend):
    u, delta, A, _, _, D, z, bias = random_inputs(2, 6, 20, 4)
    B, C = torch.randn(2, 2, 3, 4, 20)
    options = {"delta_softplus": True, "backend": backend, "return_last_state": True}
    whole, state = selective_scan(u, delta, A, B, C, D, z, bias, **options)
    for group in range(3):
        part = slice(2 * group, 2 * group + 2)
        output, last = selective_scan(
            u[:, part],
            delta[:, part],
            A[part],
            B[:, group],
            C[:, group],
            D[part],
            z[:, part],
            bias[part],
            **options,
        )
        torch.testing.assert_close(whole[:, part], output)
        torch.testing.assert_close(state[:, part], last)


@pytest.mark.parametrize("backend", ["eager", "numba"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_scanned_in_float32(dtype, backend):
    """Only inputs and outputs are rounded: a long memory keeps its digits."""
    u = torch.full((1, 2, 2000), 1e-3, dtype=dtype)
    ones = torch.ones(1, 2, 2000, dtype=dtype)
    B = torch.ones(1, 1, 2000, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = selective_scan(
            u, ones, torch.zeros(2, 1), B, B, return_last_state=True, backend=backend
        )
    assert output.dtype == dtype
    assert state.dtype == torch.float32
    # In the inputs' own precision the sum would stop growing at 0.25 or 2.
    torch.testing.assert_close(state[:, 0], 2000 * u[:, 0, :1].float(), rtol=1e-4, atol=0)


@each_scan
def test_autocast_changes_nothing(scan):
    inputs = random_inputs(2, 20, 30, 16)
    grad = torch.randn(2, 20, 30)
    plain = run(scan, inputs, grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run(scan, inputs, grad)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@each_scan
def test_gradients_have_the_dtypes_of_their_inputs(scan):
    inputs = random_inputs(2, 3, 12, 4)
    for index in (0, 1, 3, 4, 6):
        inputs[index] = inputs[index].bfloat16()
    _, _, *grads = run(scan, inputs, torch.randn(2, 3, 12).bfloat16())
    assert [x.dtype for x in grads] == [x.dtype for x in inputs]


def test_nothing_is_kept_where_no_gradient_is_wanted():
    op = torch.ops.custom_modules.selective_scan
    inputs = random_inputs(2, 3, 40, 4)
    assert op(*inputs, True, 8, False)[2].numel() == 0
    assert op(*inputs, True, 8, True)[2].shape == (5, 2, 4, 3)


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_differentiating_twice_is_refused(backend):
    inputs = [x.requires_grad_() for x in random_inputs(1, 2, 5, 2)]
    output = selective_scan(*inputs, delta_softplus=True, backend=backend)
    (grad,) = torch.autograd.grad(output.sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"scan_backward cannot be .* again"):
        torch.autograd.grad(grad.sum(), inputs[0])


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_forward_derivatives_are_refused_not_zero(backend):
    u, *others = random_inputs(1, 2, 5, 2)

    def scan(u):
        return selective_scan(u, *others, backend=backend)

    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(scan, (u,), (u,))


@pytest.mark.parametrize(
    "index, argument, refused",
    [
        (0, torch.ones(1, 2, 5, dtype=torch.int64), "u must be .* not torch.int64"),
        (2, -torch.ones(2, 2, dtype=torch.complex64), "A must be .* real floats"),
        (1, None, "delta must be .* not NoneType"),
        (3, [1.0], "B must be .* not list"),
    ],
)
def test_what_is_no_tensor_of_floats_is_refused(index, argument, refused):
    inputs = random_inputs(1, 2, 5, 2)
    inputs[index] = argument
    with pytest.raises(TypeError, match=refused):
        selective_scan(*inputs)


def test_another_device_and_no_state_are_refused():
    inputs = random_inputs(1, 2, 5, 2)
    with pytest.raises(ValueError, match="z is on meta, but u on cpu"):
        selective_scan(*inputs[:6], z=inputs[6].to("meta"))
    nothing = torch.ones(1, 0, 5)
    with pytest.raises(ValueError, match="A must be"):
        selective_scan(inputs[0], inputs[1], torch.ones(2, 0), nothing, nothing)


@pytest.mark.parametrize("name", ["selective_scan", "compiled_scan"])
def test_an_operator_that_compilers_understand(name):
    inputs = [x.requires_grad_() for x in random_inputs(2, 3, 12, 4)]
    arguments = (*inputs, True, 8, True)
    torch.library.opcheck(getattr(torch.ops.custom_modules, name).default, arguments)


@each_scan
def test_what_is_no_number_stays_none(scan):
    """Or a diverged training would go on unnoticed."""
    for index in (0, 1, 3, 4, 6):
        inputs = random_inputs(2, 3, 12, 4)
        inputs[index][1, :, 5] = float("nan")
        output, _ = scan(*inputs, True)
        assert output[1, :, 5].isnan().all()
        assert torch.isfinite(output[0]).all()


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_compiled_in_one_graph(backend):
    """The scan is a node of the graph, not unrolled into it."""
    inputs = random_inputs(2, 3, 12, 4)

    def function(u, *others):
        y = selective_scan(u * 2, *others, delta_softplus=True, backend=backend)
        return y.square()

    one_graph = torch.compile(function, backend="aot_eager", fullgraph=True)
    results = []
    for f in (function, one_graph):
        leaves = [x.detach().requires_grad_() for x in inputs]
        output = f(*leaves)
        results.append([output, *torch.autograd.grad(output.sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (2, 3), r"u must be"),
        (0, (2, 3, 0), r"u must be"),
        (1, (2, 3, 19), r"delta must be \[2, 3, 20\], not \[2, 3, 19\]"),
        (2, (4, 4), r"A must be \[3, 4\]"),
        (3, (2, 5, 20), r"B must be \[2, 4, 20\]"),
        (3, (2, 2, 4, 20), r"3 channels cannot be cut into 2 groups"),
        (4, (1, 4, 20), r"C must be \[2, 4, 20\]"),
        (5, (4,), r"D must be \[3\]"),
        (6, (2, 1, 20), r"z must be"),
        (7, (3, 1), r"delta_bias must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(index, shape, message):
    inputs = random_inputs(2, 3, 20, 4)
    inputs[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        selective_scan(*inputs)
