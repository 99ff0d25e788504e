"""The model against PyTorch's own layers, and what must hold of masks, padding and the loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import (
    Dropout,
    MultiHeadAttention,
    Transformer,
    causal_mask,
    label_smoothing_floor,
    linear_filled_up,
    loss_formula,
    loss_sums,
    padding_mask,
    sinusoids,
)

PAD = 0


def small_model(**changes) -> Transformer:
    torch.manual_seed(0)
    options = {"d_model": 16, "layers": 2, "heads": 4, "d_ff": 24, "dropout": 0.0, "positions": 20, "pad": PAD}
    model = Transformer(23, 29, **{**options, **changes})
    with torch.no_grad():  # biases of 0 and gains of 1 would hide a mistake in them
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def some_batch(lengths=((7, 5), (4, 6), (1, 1)), width=(7, 6)):
    """Source ids, target ids and where the target holds words, padded to `width`."""
    torch.manual_seed(1)
    source = torch.zeros(len(lengths), width[0], dtype=torch.long)
    target = torch.zeros(len(lengths), width[1], dtype=torch.long)
    for row, (s, t) in enumerate(lengths):
        source[row, :s] = torch.randint(4, 23, (s,))
        target[row, :t] = torch.randint(4, 29, (t,))
    return source, target, (target.flatten() != PAD).nonzero()[:, 0]


# --- Against PyTorch ----------------------------------------------------------------------------------------


def copy_attention(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    d = ours.query.in_features
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    assert theirs.in_proj_weight.shape == (3 * d, d)


def copy_layer(theirs, ours, decoder: bool) -> None:
    copy_attention(theirs.self_attn, ours.attention)
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
    theirs.norm1.load_state_dict(ours.residuals[0].norm.state_dict())
    theirs.norm2.load_state_dict(ours.residuals[1].norm.state_dict())
    if decoder:
        copy_attention(theirs.multihead_attn, ours.cross_attention)
        theirs.norm3.load_state_dict(ours.residuals[2].norm.state_dict())


def reference(ours: Transformer, pre_norm: bool) -> nn.Transformer:
    """nn.Transformer with the weights of `ours`; post-norm as in the paper, without a norm after the stacks."""
    layer = {"dropout": 0.0, "batch_first": True, "norm_first": pre_norm}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 24, **layer),
        2,
        nn.LayerNorm(16) if pre_norm else None,
        enable_nested_tensor=False,
    )
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(16, 4, 24, **layer), 2, nn.LayerNorm(16) if pre_norm else None
    )
    whole = nn.Transformer(16, 4, custom_encoder=encoder, custom_decoder=decoder, batch_first=True).eval()
    # Only now: nn.Transformer draws new weights for the parts it is given.
    for theirs, mine in zip(encoder.layers, ours.encoder, strict=True):
        copy_layer(theirs, mine, decoder=False)
    for theirs, mine in zip(decoder.layers, ours.decoder, strict=True):
        copy_layer(theirs, mine, decoder=True)
    if pre_norm:
        encoder.norm.load_state_dict(ours.encoder_norm.state_dict())
        decoder.norm.load_state_dict(ours.decoder_norm.state_dict())
    return whole


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_model_equals_nn_transformer_given_the_same_weights(norm):
    ours = small_model(pre_norm=norm == "pre")
    theirs = reference(ours, norm == "pre")
    source, target, words = some_batch()
    hidden = theirs(
        ours.source_embedding(source),
        ours.target_embedding(target),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
        src_key_padding_mask=source == PAD,
        memory_key_padding_mask=source == PAD,
        tgt_is_causal=True,
    )
    expected = ours.projection(hidden).flatten(0, 1)[words]
    torch.testing.assert_close(ours(source, target, words), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_by_the_formula_equals_the_fused_kernel(causal):
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 4)
    x = torch.randn(2, 5, 16)
    mask = None if causal else padding_mask(torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]), PAD)
    keys_values = attention.keys_values(x)
    fused = attention(x, *keys_values, mask, causal)
    assert attention.weights is None
    attention.keep_weights = True
    by_formula = attention(x, *keys_values, mask, causal)
    torch.testing.assert_close(fused, by_formula)
    torch.testing.assert_close(attention.weights.sum(-1), torch.ones(2, 4, 5))


def test_in_bf16_on_a_cpu_attention_by_the_formula_has_the_fused_kernels_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 16).bfloat16()
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):  # fp32 takes the fused kernel
        torch.manual_seed(1)
        attention = MultiHeadAttention(16, 4).to(dtype)
        y = x.detach().to(dtype).requires_grad_()
        attention(y, *attention.keys_values(y), causal=True).square().sum().backward()
        gradients.append(y.grad.float())
    torch.testing.assert_close(*gradients, rtol=0.1, atol=0.05)


def test_the_causal_mask_is_pytorchs_and_lets_the_last_queries_see_all_keys():
    ours = causal_mask(4, 4)
    assert torch.equal(~ours, nn.Transformer.generate_square_subsequent_mask(4).isinf())
    assert torch.equal(causal_mask(2, 4), ours[-2:])


def test_positions_are_the_papers_formula():
    table = sinusoids(50, 8)
    for position in (0, 1, 17, 49):
        for pair in range(4):
            angle = position / 10_000 ** (2 * pair / 8)
            assert table[position, 2 * pair] == pytest.approx(math.sin(angle), abs=1e-4)
            assert table[position, 2 * pair + 1] == pytest.approx(math.cos(angle), abs=1e-4)


def test_embeddings_are_scaled_by_the_root_of_d_model():
    model = small_model()
    ids = torch.tensor([[5, 6]])
    expected = model.source_embedding.words.weight[ids] * 4 + sinusoids(20, 16)[:2]  # sqrt(16) = 4
    torch.testing.assert_close(model.source_embedding(ids), expected)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_mean_scale_and_share(p):
    torch.manual_seed(0)
    x = torch.ones(100_003, requires_grad=True)  # no multiple of four
    dropout = Dropout(p)
    y = dropout(x)
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / (1 - p)])
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.006)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # the gradient passes where the value did, with the same factor
    assert not torch.equal(y, dropout(x))
    assert torch.equal(dropout.eval()(x), x)


def test_parameters_are_xavier_and_the_first_loss_is_close_to_ln_v():
    torch.manual_seed(0)
    model = Transformer(500, 700, d_model=64, layers=2, heads=4, d_ff=128, dropout=0.0, positions=20, pad=PAD)
    weight = model.encoder[0].feed_forward[0].weight
    assert weight.abs().max() <= math.sqrt(6 / (64 + 128))
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 + 128)), rel=0.05)
    source, target = torch.randint(4, 500, (8, 10)), torch.randint(4, 700, (8, 10))
    loss = F.cross_entropy(model(source, target).flatten(0, 1), torch.randint(4, 700, (80,)))
    assert loss.item() == pytest.approx(math.log(700), abs=0.3)


def test_tied_embeddings_are_one_matrix_and_a_shared_vocabulary_ties_the_source_too():
    tied = small_model(tied_embeddings=True)
    assert tied.projection.weight is tied.target_embedding.words.weight
    assert tied.source_embedding.words.weight is not tied.projection.weight
    torch.manual_seed(0)
    options = {"d_model": 16, "layers": 1, "heads": 4, "d_ff": 24, "dropout": 0.0, "positions": 20, "pad": PAD}
    shared = Transformer(29, 29, tied_embeddings=True, shared_vocabulary=True, **options)
    assert shared.source_embedding.words.weight is shared.projection.weight


# --- What a position may know ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_later_target_words_cannot_change_earlier_logits(norm):
    model = small_model(pre_norm=norm == "pre")
    source, target, _ = some_batch()
    logits = model(source, target)
    for position in range(1, target.shape[1]):
        changed = target.clone()
        changed[:, position:] = (changed[:, position:] + 7) % 29
        torch.testing.assert_close(model(source, changed)[:, :position], logits[:, :position])
        assert not torch.allclose(model(source, changed)[:, position], logits[:, position])


def test_every_source_word_can_change_every_logit():
    model = small_model()
    source, target, _ = some_batch([(7, 6)])
    logits = model(source, target)
    for position in range(source.shape[1]):
        changed = source.clone()
        changed[0, position] = 4 if changed[0, position] != 4 else 5
        assert ((model(changed, target) - logits).abs().amax(-1) > 1e-6).all()


def gradients(model: Transformer, source, target, words, labels) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss, _ = loss_sums(model(source, target, words), labels, 0.1)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()} | {"loss": loss.detach()}


@pytest.mark.parametrize("tied", [False, True])
def test_padding_changes_no_loss_and_no_gradient(tied):
    model = small_model(tied_embeddings=tied)
    lengths = ((7, 5), (4, 6), (1, 1))
    labels = torch.randint(4, 29, (12,))
    tight = gradients(model, *some_batch(lengths, (7, 6)), labels)
    wide = gradients(model, *some_batch(lengths, (15, 18)), labels)
    for name, gradient in tight.items():
        torch.testing.assert_close(wide[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batchs_loss_is_the_sum_over_its_sentences_in_any_order():
    model = small_model()
    lengths = ((7, 5), (4, 6), (1, 1))
    source, target, words = some_batch(lengths)
    labels = torch.arange(4, 4 + len(words))
    together, _ = loss_sums(model(source, target, words), labels, 0.1)
    apart, start = 0.0, 0
    for row, (s, t) in enumerate(lengths):
        logits = model(source[row : row + 1, :s], target[row : row + 1, :t]).flatten(0, 1)
        apart += loss_sums(logits, labels[start : start + t], 0.1)[0].item()
        start += t
    assert together.item() == pytest.approx(apart, rel=1e-5)


def test_decoding_word_by_word_with_the_cache_gives_the_logits_of_one_pass():
    model = small_model()
    source, target, _ = some_batch(((7, 6), (4, 6), (2, 6)))
    expected = model(source, target)
    encoded, mask = model.encode(source)
    memory, past = model.memory(encoded), None
    for start, end in ((0, 1), (1, 2), (2, 5), (5, 6)):  # one word or several at a time
        hidden, past = model.decode(target[:, start:end], memory, mask, past)
        torch.testing.assert_close(model.projection(hidden), expected[:, start:end], rtol=1e-4, atol=1e-5)


def test_attention_weights_show_masks_and_leave_the_model_as_it_was():
    model = small_model()
    source, target, _ = some_batch()
    before = model(source, target)
    weights = model.attention_weights(source, target)
    assert len(weights) == 2 + 2 * 2  # two encoder layers, and two attentions in each of two decoder layers
    assert weights["encoder.0.attention"].shape == (3, 4, 7, 7)
    assert weights["encoder.1.attention"][1, :, :, 4:].abs().max() == 0  # the second source has four words
    assert weights["decoder.0.attention"].triu(1).abs().max() == 0
    assert weights["decoder.1.cross_attention"].shape == (3, 4, 6, 7)
    assert torch.equal(model(source, target), before)
    assert all(m.weights is None for m in model.modules() if isinstance(m, MultiHeadAttention))


@pytest.mark.parametrize("words", [59, 64, 65])
def test_a_product_of_a_matrix_that_is_filled_up_is_that_of_the_matrix(words):
    torch.manual_seed(0)
    x, weight = torch.randn(5, 16, requires_grad=True), torch.randn(words, 16, requires_grad=True)
    coefficients = torch.randn(5, words)
    expected, found = F.linear(x, weight), linear_filled_up(x, weight)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(y, (x, weight), coefficients) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


# --- The loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [loss_sums, loss_formula])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_loss_and_its_gradient_equal_pytorchs(loss, smoothing, dtype):
    torch.manual_seed(0)
    words = 70_001  # more than one chunk of rows
    logits = (3 * torch.randn(40, words)).to(dtype).requires_grad_()
    labels = torch.randint(0, words, (40,))
    theirs = logits.detach().clone().float().requires_grad_()  # ours are overwritten
    expected = F.cross_entropy(theirs, labels, label_smoothing=smoothing, reduction="sum")
    smoothed, plain = loss(logits, labels, smoothing)
    assert not plain.requires_grad
    torch.testing.assert_close(smoothed, expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(plain, F.cross_entropy(theirs, labels, reduction="sum"), rtol=1e-5, atol=1e-3)
    factor = 1000.0  # as a GradScaler has it
    (factor * smoothed / 40).backward()
    (factor * expected / 40).backward()
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(logits.grad.float(), theirs.grad, rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("loss", [loss_sums, loss_formula])
def test_extreme_logits_give_a_finite_loss(loss):
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0]], requires_grad=True)
    smoothed, _ = loss(logits, torch.tensor([2, 0]), 0.1)
    smoothed.backward()
    assert smoothed.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("words", "smoothing"), [(8_000, 0.1), (50, 0.3), (100, 0.0)])
def test_no_distribution_gets_below_the_label_smoothing_floor(words, smoothing):
    floor = label_smoothing_floor(words, smoothing)
    target = torch.full((words,), smoothing / words)
    target[3] += 1 - smoothing
    best = loss_sums(target.clamp(min=1e-30).log()[None], torch.tensor([3]), smoothing)[0].item()
    assert best == pytest.approx(floor, abs=1e-4)
    surer = target.clone()
    surer[3] *= 1.5
    assert loss_sums(surer.clamp(min=1e-30).log()[None], torch.tensor([3]), smoothing)[0].item() >= floor - 1e-6


@pytest.mark.parametrize("norm", [True, False])
def test_in_bf16_on_a_cpu_the_sums_between_the_layers_are_as_wide_as_the_products(norm):
    torch.manual_seed(0)
    model = Transformer(50, 60, d_model=32, layers=2, heads=4, d_ff=64, dropout=0.0, positions=20, pad=0, pre_norm=norm)
    source, target = torch.randint(1, 50, (4, 9)), torch.randint(1, 60, (4, 8))
    wide = model.states(source, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.source_embedding(source).dtype == torch.bfloat16
        narrow = model.states(source, target)
    assert narrow.dtype == torch.bfloat16
    assert (wide - narrow).norm() < 0.03 * wide.norm()
    with torch.autocast("cpu", torch.float16):  # whose sums could overflow
        assert model.source_embedding(source).dtype == torch.float32
