"""A Transformer encoder-decoder from scratch (Vaswani et al. 2017, "Attention Is All You Need").

Letters in the shape comments: B sentences, S source positions, T target positions, D = d_model,
H heads, K = D / H channels a head, V words in the target vocabulary, N real target positions of a batch.
Masks are boolean and True means "may look".
"""

import math
from collections.abc import Container

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = list[tuple[Tensor, Tensor]]  # one pair of keys and values, each (B, H, positions, K), a decoder layer


def padding_mask(ids: Tensor, pad: int) -> Tensor:
    """Which positions hold a word: (B, S) ids to a (B, 1, 1, S) mask for attention."""
    return (ids != pad)[:, None, None, :]


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """Each of the last `queries` of `keys` positions may look at itself and before: (queries, keys)."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def sinusoids(positions: int, d_model: int) -> Tensor:
    """Positional encoding (Vaswani et al. 2017, section 3.5): (positions, d_model)."""
    position = torch.arange(positions, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float32) * (-math.log(10_000) / d_model))
    angles = position * frequency  # (positions, D / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Dropout(nn.Module):
    """Zeroes a share `p` of the values while training and scales the others by 1 / (1 - p).

    The same as nn.Dropout. On a CPU one 64-bit random number decides about four values, which takes about a
    fifth of the time of PyTorch's one Bernoulli draw a value; p is then rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler fuses the draws with the product
            return F.dropout(x, self.p)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # Of the 16-bit numbers, which begin at -2^15, a share p is below this one.
        keep = draws[: x.numel()].view(x.shape) >= round(self.p * 2**16) - 2**15
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


def linear_filled_up(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., D) times the transposed weight (V, D), with V filled up to a multiple of 8 on the way: a GPU has fast
    kernels for rows of whole 16 bytes alone, and a vocabulary has any number of words (benchmarks/README.md).
    """
    filled = F.pad(weight, (0, 0, 0, -len(weight) % 8))
    return F.linear(x, filled)[..., : len(weight)]


def _autocasts_to_bf16_on_cpu(x: Tensor) -> bool:
    on = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return on and torch.get_autocast_dtype("cpu") == torch.bfloat16


class Embedding(nn.Module):
    """Word embeddings times sqrt(D), plus sinusoidal positions: (B, T) ids to (B, T, D)."""

    def __init__(self, words: int, d_model: int, positions: int, dropout: float):
        super().__init__()
        self.words = nn.Embedding(words, d_model)
        self.dropout = Dropout(dropout)
        self.scale = math.sqrt(d_model)
        self.register_buffer("positions", sinusoids(positions, d_model), persistent=False)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        x = self.words(ids) * self.scale + self.positions[start : start + ids.shape[1]]  # (B, T, D)
        if _autocasts_to_bf16_on_cpu(x):
            x = x.bfloat16()  # half the bytes for the sums, norms and dropouts of all layers (benchmarks/README.md)
        return self.dropout(x)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in H heads (Vaswani et al. 2017, section 3.2).

    Keys and values are made by `keys_values`, apart from the look-up itself, so that a decoder can keep them.
    """

    def __init__(self, d_model: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)
        self.keep_weights = False  # Transformer.attention_weights sets it for one pass
        self.weights = None

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, D) to (B, H, T, K)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) to keys and values, each (B, H, S, K)."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal=False) -> Tensor:
        """Looks from x (B, T, D) at keys and values; returns (B, T, D).

        mask: boolean, broadcastable to (B, H, T, S). causal: no looking ahead, given by the flag and not by a
        mask so that the fast kernels stay eligible. One of the two, not both.
        """
        q = self._split(self.query(x))  # (B, H, T, K)
        if self.keep_weights or _formula_is_faster(q):
            mask = causal_mask(q.shape[2], keys.shape[2], x.device) if causal else mask
            out, weights = _attend(q, keys, values, mask)
            self.weights = weights if self.keep_weights else None
        else:
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal)
        return self.output(out.transpose(1, 2).flatten(2))  # (B, T, D)


def _formula_is_faster(q: Tensor) -> bool:
    # PyTorch's fused kernel for CPUs is slow backwards in bf16: 8.1 ms against 1.2 ms for the formula,
    # (B, H, T, K) = (32, 8, 32, 32) forward and backward on two Zen 5 cores.
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad


def _attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(K)) V as the paper writes it; also returns the weights (B, H, T, S)."""
    scores = q / math.sqrt(q.shape[-1]) @ keys.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        scores.masked_fill_(~mask, -math.inf)
    weights = scores.softmax(-1)
    return weights.to(values.dtype) @ values, weights  # (B, H, T, K)


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between, at each position alone (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, d_model: int, d_ff: int):
        super().__init__(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))


class Residual(nn.Module):
    """A sublayer's normalisation, dropout and the sum around it."""

    def __init__(self, d_model: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, sublayer) -> Tensor:
        if self.pre_norm:  # trains without careful warm-up (Xiong et al. 2020); the paper is post-norm
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class EncoderLayer(nn.Module):
    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.attention = MultiHeadAttention(d_model, heads)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.residuals = nn.ModuleList(Residual(d_model, dropout, pre_norm) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.residuals[0](x, lambda y: self.attention(y, *self.attention.keys_values(y), mask))
        return self.residuals[1](x, self.feed_forward)


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.attention = MultiHeadAttention(d_model, heads)
        self.cross_attention = MultiHeadAttention(d_model, heads)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.residuals = nn.ModuleList(Residual(d_model, dropout, pre_norm) for _ in range(3))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], memory_mask: Tensor, past=None):
        """x: (B, T, D). memory: the source's keys and values. past: keys and values of earlier positions.

        Where x has several rows for each sentence of the memory, as in beam search, they stand next to each other.
        Returns the new x and the keys and values of all target positions so far.
        """
        present = past

        def attend_to_target(y):
            nonlocal present
            present = self.attention.keys_values(y)
            if past is None:
                return self.attention(y, *present, causal=True)
            present = tuple(torch.cat(pair, dim=2) for pair in zip(past, present, strict=True))
            # A single new position may look at everything there is, so that it needs no mask.
            mask = None if y.shape[1] == 1 else causal_mask(y.shape[1], present[0].shape[2], y.device)
            return self.attention(y, *present, mask)

        # In beam search y is (B K, 1, D) and the memory of B sentences. A position looks by its own query alone, so
        # that the K rows of a sentence can be K positions of one row.
        def attend_to_source(y):
            return self.cross_attention(y.view(len(memory[0]), -1, y.shape[2]), *memory, memory_mask).view_as(y)

        x = self.residuals[0](x, attend_to_target)
        x = self.residuals[1](x, attend_to_source)
        return self.residuals[2](x, self.feed_forward), present


class Transformer(nn.Module):
    """Encoder, decoder and projection to the target vocabulary.

    positions: the longest sentence in tokens that can be read or written. pad: the id that fills up rows.
    tied_embeddings: the projection shares the target embedding's matrix (Press & Wolf 2017); with
    shared_vocabulary the source embedding shares it too (Vaswani et al. 2017, section 3.4).
    """

    def __init__(self, source_words: int, target_words: int, *, d_model: int, layers: int, heads: int, d_ff: int,
                 dropout: float, positions: int, pad: int, pre_norm=True, tied_embeddings=False,
                 shared_vocabulary=False):  # fmt: skip
        super().__init__()
        self.pad, self.positions = pad, positions
        self.source_embedding = Embedding(source_words, d_model, positions, dropout)
        self.target_embedding = Embedding(target_words, d_model, positions, dropout)
        layer = (d_model, heads, d_ff, dropout, pre_norm)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(layers))
        # Pre-norm leaves the last sum unnormalised; post-norm has normalised it already.
        self.encoder_norm = nn.LayerNorm(d_model) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(d_model) if pre_norm else nn.Identity()
        # Without a bias, which PyTorch would copy into each of the N rows of logits: that of the decoder's last norm
        # reaches them through the weights.
        self.projection = nn.Linear(d_model, target_words, bias=False)
        if tied_embeddings:
            self.projection.weight = self.target_embedding.words.weight
            if shared_vocabulary:
                self.source_embedding.words.weight = self.target_embedding.words.weight
        self._initialise()

    def _initialise(self) -> None:
        # Xavier for every layer (Glorot & Bengio 2010): the first loss is then close to ln V, with a tied projection
        # about 0.5 above.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # A variance of 1 once scaled by sqrt(D), beside the positions' 0.5; Xavier gives words some 0.06. 10 epochs
        # with AdamW end at 2.41 instead of 2.66 in one seed; Lion gained nothing (benchmarks/README.md).
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.words.weight, std=1 / embedding.scale)

    @property
    def device(self) -> torch.device:
        return self.projection.weight.device

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) ids to the encoder's output (B, S, D) and its mask (B, 1, 1, S)."""
        mask = padding_mask(source, self.pad)
        x = self.source_embedding(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x), mask

    def memory(self, encoded: Tensor) -> Cache:
        """Keys and values of the encoder's output for every decoder layer, made once a sentence."""
        return [layer.cross_attention.keys_values(encoded) for layer in self.decoder]

    def decode(self, target: Tensor, memory: Cache, mask: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """Reads target ids (B, T) that follow the positions in `past`.

        Returns hidden states (B, T, D) and the cache to pass on as `past` with the next ids. Padding stands at
        the right of target rows, where causal attention cannot see it: no mask is needed for it.
        """
        x = self.target_embedding(target, start=past[0][0].shape[2] if past else 0)
        present = []
        for i, layer in enumerate(self.decoder):
            x, keys_values = layer(x, memory[i], mask, past[i] if past else None)
            present.append(keys_values)
        return self.decoder_norm(x), present

    def states(self, source: Tensor, target: Tensor) -> Tensor:
        """The decoder's hidden states (B, T, D), of which the projection makes logits: all layers in one call."""
        encoded, mask = self.encode(source)
        return self.decode(target, self.memory(encoded), mask)[0]

    def logits(self, states: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the word that follows each target position, from hidden states (B, T, D).

        Given the N flat `positions` of (B, T), of these alone, (N, V): the projection is dear and padding has no use
        for it.
        """
        if positions is not None:
            states = states.flatten(0, 1).index_select(0, positions)  # (N, D)
        return linear_filled_up(states, self.projection.weight) if states.is_cuda else self.projection(states)

    def forward(self, source: Tensor, target: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits of source (B, S) and target (B, T) ids: `states` and `logits` in one."""
        return self.logits(self.states(source, target), positions)

    @torch.no_grad()
    def attention_weights(self, source: Tensor, target: Tensor, names: Container[str] = ()) -> dict[str, Tensor]:
        """Which position looks where: module name to weights (B, H, from, to), of the attentions named or of all."""
        attentions = {
            name: module
            for name, module in self.named_modules()
            if isinstance(module, MultiHeadAttention) and (not names or name in names)
        }
        for module in attentions.values():
            module.keep_weights = True
        self.states(source, target)
        weights = {name: module.weights for name, module in attentions.items()}
        for module in attentions.values():
            module.keep_weights, module.weights = False, None
        return weights


def build_model(config, source_words: int, target_words: int, pad: int) -> Transformer:
    """The Transformer that the settings describe, for vocabularies of the given sizes."""
    return Transformer(
        source_words, target_words,
        d_model=config.d_model, layers=config.layers, heads=config.heads, d_ff=config.d_ff, dropout=config.dropout,
        positions=config.seq_len, pad=pad, pre_norm=config.norm == "pre",
        tied_embeddings=config.tied_embeddings, shared_vocabulary=config.tokenizer == "bpe",
    )  # fmt: skip


def label_smoothing_floor(words: int, smoothing: float) -> float:
    """The lowest loss in nats a word that any model can reach with label smoothing (Szegedy et al. 2016, 7).

    It is the entropy of the smoothed target: the right word has 1 - smoothing + smoothing / V, each other
    one smoothing / V.
    """
    other = smoothing / words
    right = 1 - smoothing + other
    return 0.0 - right * math.log(right) - ((words - 1) * other * math.log(other) if other else 0.0)  # 0, and not -0


def loss_sums(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Label-smoothed and plain negative log-likelihood, summed over words. Where a gradient is wanted, it overwrites
    the logits (but those in fp16): they are the largest tensor of a step, and nothing else has use for them.

    logits: (N, V), labels: (N,). Returns two scalars in nats: the first equals F.cross_entropy with
    label_smoothing and reduction="sum"; the second carries no gradient.
    """
    return _LossSums.apply(logits, labels, smoothing)


def loss_formula(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """loss_sums as it would be written down, for a compiler, which makes two passes over the logits of it."""
    words = logits.shape[1]
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    right = labels[:, None] == torch.arange(words, device=logits.device)
    nll = -torch.where(right, log_p, 0.0).sum()
    return (1 - smoothing) * nll - smoothing / words * log_p.sum(), nll.detach()


class _LossSums(torch.autograd.Function):
    """The same as loss_formula. The gradient of the loss by the logits is simple, softmax minus smoothed target
    (smoothing / V, and 1 - smoothing more at the right word), and is made on the way forward, a few rows at a time.
    Autograd would pass over all of (N, V) in fp32 about eight times: 45 % of a step of the `small` preset on two CPU
    cores.
    """

    @staticmethod
    def forward(ctx, logits, labels, smoothing):
        words = logits.shape[1]
        nll = uniform = torch.zeros((), device=logits.device)
        ctx.dtype, wanted = logits.dtype, ctx.needs_input_grad[0]
        # In fp16 the many gradients near smoothing / V would vanish before GradScaler can lift them.
        wider = logits.dtype == torch.float16
        gradient = torch.empty_like(logits, dtype=torch.float32) if wanted and wider else logits
        # As many rows as stay in a CPU's cache; a GPU wants few launches.
        rows = max(1, (2**20 if logits.device.type == "cpu" else 2**27) // words)
        for x, y, g in zip(logits.split(rows), labels[:, None].split(rows), gradient.split(rows), strict=True):
            log_p = F.log_softmax(x, dim=-1, dtype=torch.float32)
            nll = nll - log_p.gather(1, y).sum()
            uniform = uniform - log_p.sum() / words
            if wanted:
                p = log_p.exp_().sub_(smoothing / words)
                g.copy_(p.scatter_add_(1, y, torch.full_like(y, smoothing - 1, dtype=p.dtype)))
        ctx.gradient = gradient  # not an output, so there is no cycle that save_for_backward would have to break
        ctx.mark_non_differentiable(nll)
        return (1 - smoothing) * nll + smoothing * uniform, nll

    @staticmethod
    def backward(ctx, gradient_of_loss, _):
        gradient, ctx.gradient = ctx.gradient, None  # it is scaled in place, which a second backward may not repeat
        return gradient.mul_(gradient_of_loss).to(ctx.dtype), None, None
