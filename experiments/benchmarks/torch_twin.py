"""The default ranker and its training, written again in PyTorch.

The aligned head with all branches, on cross-entropy and the soft AUC of the
batch, whose soft rank is torchsort's. Imports torch: import it late.
"""

from collections.abc import Callable
import math
from typing import Any
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
import torchsort

from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib


class Outputs(NamedTuple):
  """Outputs of the network for N rows."""

  logits: torch.Tensor  # [N, M] corrected log-odds
  log_score: torch.Tensor  # [N]; its gradient trains the gains alone


class TwinTraining(NamedTuple):
  """How the network is trained."""

  objective_weights: torch.Tensor  # [M]
  unit: torch.Tensor  # [M] of `Calibration`
  relative_strength: float  # of the soft rank, in std(scores) / (N - 1)
  learning_rate: float  # of Adam, at first; falls by a cosine
  num_steps: int  # steps until it is 0


def rows_of(rows: ranker_lib.Rows) -> ranker_lib.Rows:
  """The rows of JAX as tensors."""
  tensor = lambda array: torch.from_numpy(np.array(array))
  return ranker_lib.Rows(
      tensor(rows.labels), tensor(rows.scores), tensor(rows.has_score),
      tensor(rows.categorical).long(), tensor(rows.numeric))


class Twin(nn.Module):
  """`ranker.Ranker`; modules are named as in its parameters.

  Each row needs a score: PyTorch's gradient differs where all are masked.
  """

  def __init__(
      self, config: network.HarmonRankConfig,
      vocabulary_sizes: tuple[int, ...], params: dict[str, Any]
  ):
    super().__init__()
    state = state_of(params)
    objectives, size = config.num_objectives, config.token_size
    # The branches append a constant to the profile.
    profile = state["relation_agnostic.gate_in.weight"].shape[1]
    self.embeddings = nn.ModuleList(
        nn.Embedding(*state[f"embeddings.{column}.weight"].shape)
        for column in range(len(vocabulary_sizes)))
    self.scale = nn.Parameter(torch.ones(objectives))
    self.shift = nn.Parameter(torch.zeros(objectives))
    self.register_buffer("base_rate", torch.full((objectives,), 0.5))
    self.register_buffer("pair_share", torch.ones(objectives))
    self.relation_aware = _RelationAware(
        objectives, size, config.num_heads, profile)
    self.relation_agnostic = _RelationAgnostic(objectives, size, profile)
    self.gain = nn.Parameter(torch.zeros(objectives))
    self.load_state_dict(state)

  def forward(
      self, rows: ranker_lib.Rows, objective_weights: torch.Tensor
  ) -> Outputs:
    profile = torch.cat([rows.numeric, *(
        embedding(rows.categorical[:, column])
        for column, embedding in enumerate(self.embeddings))], dim=-1)
    prior = torch.logit(self.base_rate)
    clipped = torch.where(rows.has_score, rows.scores, 0.5).clip(1e-7, 1 - 1e-7)
    log_odds = torch.log(clipped) - torch.log1p(-clipped)
    logits = torch.where(
        rows.has_score, self.scale * log_odds + self.shift, prior)
    lift = logits - prior
    with_constant = functional.pad(profile, (0, 1), value=1.0)
    logits = (logits
              + self.relation_aware(lift, with_constant, rows.has_score)
              + self.relation_agnostic(lift, with_constant, rows.has_score))
    # The rank loss trains only the gains, not the probabilities.
    share = objective_weights / (
        self.pair_share * self.base_rate * (1 - self.base_rate))
    score = torch.sum(
        share * torch.exp(self.gain) * torch.sigmoid(logits.detach()), dim=-1)
    return Outputs(logits, torch.log(score))


class _RelationAware(nn.Module):
  """Self-attention over objectives, then the profile attends to them."""

  def __init__(self, objectives: int, size: int, heads: int, profile: int):
    super().__init__()
    self.tokens = _Tokens(objectives, size)
    self.self_attention = _Attention(size, heads)
    self.norm = nn.LayerNorm(size, eps=1e-6)
    self.query = nn.Linear(profile, size)
    self.cross_attention = _Attention(size, heads)
    self.head_token = nn.Linear(size, size)
    self.head_context = nn.Linear(size, size)
    self.head_out = nn.Parameter(torch.zeros(objectives, size))

  def forward(self, lift, profile, present):
    mask = torch.where(present, 0.0, -1e9)[:, None, None, :]
    tokens = self.tokens(lift)
    tokens = self.norm(tokens + self.self_attention(tokens, tokens, mask))
    query = self.query(profile)[:, None, :]
    context = query + self.cross_attention(query, tokens, mask)
    hidden = functional.relu(
        self.head_token(tokens) + self.head_context(context))
    return torch.sum(hidden * self.head_out, dim=-1)


class _RelationAgnostic(nn.Module):
  """A gate: the profile weighs the encoded scores."""

  def __init__(self, objectives: int, size: int, profile: int):
    super().__init__()
    self.gate_in = nn.Linear(profile, size)
    self.gate_out = nn.Linear(size, objectives)
    self.offset = nn.Linear(size, objectives)

  def forward(self, lift, profile, present):
    hidden = functional.relu(self.gate_in(profile))
    lift = torch.where(present, lift, 0.0)
    return torch.expm1(self.gate_out(hidden)) * lift + self.offset(hidden)


class _Tokens(nn.Module):
  """One token per objective: a learned curve of its lift, and its name."""

  def __init__(self, objectives: int, size: int):
    super().__init__()
    self.slope = nn.Parameter(torch.zeros(objectives, size))
    self.bend = nn.Parameter(torch.zeros(objectives, size))
    self.name_embedding = nn.Parameter(torch.zeros(objectives, size))
    self.curve_out = nn.Linear(size, size)

  def forward(self, lift):
    curve = functional.relu(lift[..., None] * self.slope + self.bend)
    return self.curve_out(curve) + self.name_embedding


class _Attention(nn.Module):
  """Multi-head attention of a query to keys, which also are the values."""

  def __init__(self, size: int, heads: int):
    super().__init__()
    self.heads = heads
    self.query, self.key = nn.Linear(size, size), nn.Linear(size, size)
    self.value, self.out = nn.Linear(size, size), nn.Linear(size, size)

  def forward(self, query, keys, mask):
    split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    context = functional.scaled_dot_product_attention(
        split(self.query(query)), split(self.key(keys)),
        split(self.value(keys)), attn_mask=mask)
    return self.out(context.transpose(1, 2).flatten(-2))


def state_of(params: dict[str, Any]) -> dict[str, torch.Tensor]:
  """A tree like the parameters of `ranker.Ranker`, or gradients, as a state."""
  result = {}

  def add(path, name, array):
    array = np.array(array)
    if name == "kernel":
      # Heads have an axis: one of the last two, or of the first two.
      rows = array.shape[-1] if path[-1] == "out" else -1
      columns = -1 if path[-1] == "out" else array.shape[0]
      array = array.reshape(columns, rows).T
    elif name == "bias":
      array = array.reshape(-1)
    if name in ("kernel", "embedding") or [*path, name][-2:] == [
        "norm", "scale"]:
      name = "weight"
    result[".".join([*path, name])] = torch.from_numpy(
        np.ascontiguousarray(array))

  def walk(path, tree):
    for name, value in tree.items():
      if isinstance(value, dict):
        walk([*path, name], value)
      else:
        add(path, name, value)

  for name, tree in params["encoder"].get("params", {}).items():
    walk(["embeddings", name.removeprefix("embedding_")], tree)
  walk([], params["network"]["params"])
  return result


def loss_of(
    outputs: Outputs, labels: torch.Tensor, training: TwinTraining
) -> torch.Tensor:
  """Cross-entropy, and 1 less the weighted mean soft AUC of the batch."""
  targets = labels.to(torch.float32)
  entropy = functional.binary_cross_entropy_with_logits(
      outputs.logits, targets / training.unit)
  scores = outputs.log_score
  spread = torch.std(scores.detach(), correction=0).clip(min=0.1)
  ranks = torchsort.soft_rank(
      scores[None], regularization_strength=(
          training.relative_strength * spread / (len(scores) - 1)))[0]
  positives = targets.sum(dim=0)
  pairs = positives * (len(scores) - positives)
  live = pairs > 0
  sums = (ranks - (len(scores) + 1) / 2) @ targets
  auc = 0.5 + sums / torch.where(live, pairs, 1.0)
  weights = torch.where(live, training.objective_weights, 0.0)
  weights = weights / weights.sum().clip(min=1e-30)
  rank_loss = torch.where(live.any(), 1 - torch.sum(weights * auc), 0.0)
  return entropy + rank_loss


def make_step(
    twin: Twin, rows: ranker_lib.Rows, training: TwinTraining, *,
    compile_network: bool,
) -> Callable[[], torch.Tensor]:
  """A step of training on the same rows, with the loss before it."""
  parameters = list(twin.parameters())
  optimizer = torch.optim.Adam(
      parameters, lr=training.learning_rate, fused=True)
  schedule = torch.optim.lr_scheduler.LambdaLR(
      optimizer, lambda step: 0.5 * (
          1 + math.cos(math.pi * min(step / training.num_steps, 1))))
  # torchsort does not compile.
  forward = torch.compile(twin, dynamic=False) if compile_network else twin

  def step():
    optimizer.zero_grad()
    loss = loss_of(
        forward(rows, training.objective_weights), rows.labels, training)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
    return loss.detach()

  return step
