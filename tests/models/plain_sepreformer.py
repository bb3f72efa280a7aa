"""SepReformer as plain loops, to compare ours with."""

import torch
import torch.nn.functional as F


def plain(model, mixture):
    """The formulas of the paper for one mixture, [time] → [time, sources], in loops."""
    stages = model.num_stages
    windows = mixture.unfold(0, model.kernel_size, model.stride)
    encoded = F.gelu(windows @ model.encoder.weight[:, 0].T)
    x = model.bottleneck(norm_of_all(encoded, model.norm))
    frames = len(x)
    x = F.pad(x, (0, 0, 0, -frames % 2**stages))
    coarsest, skips = len(x) // 2**stages, []
    for i in range(stages):
        (x,) = run(model, model.encoder_stages[i], [x], coarsest)
        skips.append(x)
        down = model.downsamplings[i]
        x = F.gelu(batch_norm(conv(x, down.conv, 2), down.norm))
    (x,) = run(model, model.encoder_stages[stages], [x], coarsest)
    sequences = split(model, x, model.splits[-1])
    for i in range(stages):
        level = stages - 1 - i
        skip = split(model, skips[level], model.splits[min(level, len(model.splits) - 1)])
        joined = [
            torch.cat([s.repeat_interleave(2, 0), k], 1)
            for s, k in zip(sequences, skip, strict=True)
        ]
        sequences = [model.fusions[i](s) for s in joined]
        sequences = run(model, model.decoder_stages[i], sequences, coarsest)
    return torch.stack([wave(model, s[:frames]) for s in sequences], 1)


def norm(x, layer):  # of the channels of each frame
    return F.layer_norm(x, x.shape[1:], layer.weight, layer.bias)


def norm_of_all(x, layer):  # of all channels and frames together
    return (x - x.mean()) / (x.var(correction=0) + 1e-8).sqrt() * layer.weight + layer.bias


def batch_norm(x, layer):
    return (x - layer.running_mean) / (layer.running_var + 1e-5).sqrt() * layer.weight + layer.bias


def conv(x, layer, step=1):  # of each channel of [time, channels], zeros around
    size = layer.weight.shape[2]
    padded = F.pad(x, (0, 0, size // 2, size // 2))
    rows = [(padded[t : t + size] * layer.weight[:, 0].T).sum(0) for t in range(0, len(x), step)]
    return torch.stack(rows) + layer.bias


def glu(x):
    value, gate = x.chunk(2, 1)
    return value * gate.sigmoid()


def attend(x, layer, positions=None):  # [tokens, channels]
    x = norm(x, layer.norm)
    query, key, value = layer.queries(x), layer.keys(x), layer.values(x)
    width = x.shape[1] // layer.n_head
    heads = []
    for h in range(layer.n_head):
        part = slice(h * width, (h + 1) * width)
        scores = query[:, part] @ key[:, part].T
        for i in range(len(x) if positions else 0):
            most, vectors = positions.max_distance, positions.vectors.weight
            for j in range(len(x)):
                distance = min(max(i - j, -most), most - 1)
                scores[i, j] += query[i, part] @ vectors[distance + most]
        heads.append((scores / width**0.5).softmax(1) @ value[:, part])
    return layer.output(torch.cat(heads, 1)) * layer.scale.gain


def feed_forward(x, layer):
    hidden = layer.contract(glu(conv(layer.expand(norm(x, layer.norm)), layer.conv)))
    return x + hidden * layer.scale.gain


def run(model, stage, sequences, coarsest):
    """A stage: its blocks of the whole, of the neighbourhood, and of the speakers."""
    for first, second, *third in stage.blocks:
        for k, x in enumerate(sequences):
            ratio = len(x) // coarsest
            tokens = x.unflatten(0, (-1, ratio)).mean(1)
            seen = attend(tokens, first.attention, model.positions)
            gate = first.gate[1](norm(x, first.gate[0])).sigmoid()
            x = feed_forward(x + gate * seen.repeat_interleave(ratio, 0), first.feed_forward)
            hidden = conv(glu(second.gate(norm(x, second.norm))), second.conv)
            hidden = F.gelu(batch_norm(second.expand(hidden), second.batch_norm))
            x = x + second.contract(hidden) * second.scale.gain
            sequences[k] = feed_forward(x, second.feed_forward)
        if third:
            speakers = torch.stack(sequences, 1)
            seen = [attend(frame, third[0].attention) for frame in speakers]
            speakers = speakers + torch.stack(seen)
            sequences = [feed_forward(x, third[0].feed_forward) for x in speakers.unbind(1)]
    return sequences


def split(model, x, layer):
    """Of what all speakers share, what each has: [time, channels] times the sources."""
    parts = layer.contract(glu(layer.expand(x))).chunk(model.num_sources, 1)
    return [norm_of_all(part, layer.norm) for part in parts]


def wave(model, x):
    """What a speaker's frames sound like, by overlap and add."""
    filters = model.head.layers[2](glu(model.head.layers[0](x)))
    wave = torch.zeros(model.kernel_size + (len(x) - 1) * model.stride)
    for t in range(len(x)):
        place = slice(t * model.stride, t * model.stride + model.kernel_size)
        wave[place] += filters[t] @ model.head.decoder.weight[:, 0]
    return wave
