"""Recognisers of random weights, small enough to be made in a test, by their own tools."""

import json
import string

import torch

LETTERS = [*string.ascii_lowercase, *"ąćęłńóśźż"]
RATE = 16_000


def wav2vec2(folder):
    """A transformers CTC model: letters of Polish, 20 ms frames."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    torch.manual_seed(3)
    config = Wav2Vec2Config(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForCTC(config).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=3.0)  # or one letter wins everywhere
    model.save_pretrained(folder)
    return folder


def whisper(folder, says="abdobrywiecz"):
    """A transformers Whisper that knows of Polish, with a tokenizer of bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    folder.mkdir(parents=True, exist_ok=True)
    # The alphabet comes in an order of chance.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda x: (not x.islower(), x))
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{x}|>" for x in LANGUAGES)]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    special += ["<|nospeech|>", "<|notimestamps|>"]
    special += [f"<|{n * 0.02:.2f}|>" for n in range(1501)]
    # CTranslate2 tells a multilingual model by the size of its vocabulary.
    letters += [f"unused{n}" for n in range(51_866 - len(letters) - len(special))]
    tokenizer = Tokenizer(models.BPE({x: i for i, x in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(x, special=True) for x in special[:-1501]])
    tokenizer.add_tokens(special[-1501:])
    number = tokenizer.token_to_id
    WhisperTokenizerFast(
        tokenizer_object=tokenizer, unk_token=special[0], bos_token=special[0], eos_token=special[0]
    ).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    torch.manual_seed(4)
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        pad_token_id=number(special[0]),
        bos_token_id=number(special[0]),
        eos_token_id=number(special[0]),
        decoder_start_token_id=number("<|startoftranscript|>"),
    )
    model = WhisperForConditionalGeneration(config).eval()
    speak(model, [number(x) for x in says], end=number(special[0]))
    settings = model.generation_config
    settings.is_multilingual, settings.max_length = True, 20
    settings.lang_to_id = {f"<|{x}|>": number(f"<|{x}|>") for x in LANGUAGES}
    settings.task_to_id = {x: number(f"<|{x}|>") for x in ("transcribe", "translate")}
    settings.no_timestamps_token_id = number("<|notimestamps|>")
    settings.alignment_heads = [[0, 0]]
    model.save_pretrained(folder)
    return folder


def speak(model, said, end):
    """Makes each place of a Whisper say a letter of its own, and the end come soon."""
    said = said + [end] * (448 - len(said))
    with torch.no_grad():
        tokens, places = model.model.decoder.embed_tokens, model.model.decoder.embed_positions
        tokens.weight[end] = tokens.weight[0].flip(0)  # that of padding is zero
        tokens.weight[said] *= 20
        places.weight.copy_(100 * tokens.weight[said])


def faster_whisper(folder, **options):
    """The same Whisper, converted by CTranslate2."""
    from ctranslate2.converters import TransformersConverter

    source = whisper(folder.with_name(f"{folder.name}_transformers"), **options)
    copied = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(source), copy_files=copied).convert(str(folder))
    return folder


SPEECHBRAIN = """
sample_rate: 16000
features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_mels: 20
layer: !new:speechbrain.nnet.linear.Linear
    input_size: 20
    n_neurons: 36
softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    features: !ref <features>
    layer: !ref <layer>
    softmax: !ref <softmax>
modules:
    encoder: !ref <encoder>
tokenizer: !new:speechbrain.dataio.encoder.CTCTextEncoder
decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
    blank_id: 0
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        layer: !ref <layer>
        tokenizer: !ref <tokenizer>
"""


def speechbrain(folder):
    """An EncoderASR: letters from log-mel features by one layer."""
    from speechbrain.dataio.encoder import CTCTextEncoder
    from speechbrain.nnet.linear import Linear

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(SPEECHBRAIN)
    torch.manual_seed(5)
    layer = Linear(input_size=20, n_neurons=36)
    torch.save(layer.state_dict(), folder / "layer.ckpt")
    tokenizer = CTCTextEncoder()
    tokenizer.update_from_iterable([LETTERS], sequence_input=True)
    tokenizer.insert_blank(index=0)
    tokenizer.save(str(folder / "tokenizer.ckpt"))
    return folder
