"""What is tried: each idea is one change of the joint run, compared with a run that lacks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aista.errors import ConfigError

SHIPPED = "shipped"


@dataclass(frozen=True)
class Idea:
    """One change.

    Attributes:
        name: Key and folder name.
        title: What a reader sees.
        overrides: Settings of the joint run in which it differs from the shipped config of the demo.
        against: Name of the idea it is compared with; its own name: it is what others are compared with.
        regime: A key of ``REGIMES``: data and length of the joint run.
        stage1: ``shipped``, or a key of ``STAGES``: the model that the joint run starts from.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    against: str = "base"
    regime: str = "little"
    stage1: str = SHIPPED

    @property
    def is_base(self) -> bool:
        """Whether others are compared with it."""
        return self.against == self.name


@dataclass(frozen=True)
class Regime:
    """Data and length of a joint run.

    Attributes:
        title: What a reader sees.
        told: The same in a sentence.
        overrides: Its settings; ``{corpus}`` is the folder of the corpora.
    """

    title: str
    told: str
    overrides: tuple[str, ...]


_LITTLE = ("data.train=[{corpus}/st.jsonl]",)
REGIMES: Mapping[str, Regime] = {
    "little": Regime(
        "little data",
        "250 utterances into two languages, 160 steps of 32.",
        (*_LITTLE, "train.max_steps=160", "train.eval_steps=40", "train.save_steps=40"),
    ),
    "mixed": Regime(
        "little data, mixed with recognition",
        "two thirds of the rows are those 250 utterances, a third is recognition of other speech; 240 steps.",
        (
            "data.train=[{corpus}/st.jsonl,{corpus}/asr.jsonl]", "data.weights=[0.67,0.33]",
            "train.max_steps=240", "train.eval_steps=60", "train.save_steps=60",
        ),
    ),
    "to_stop": Regime(
        "little data, the paper's stopping rule",
        "until four validations, 40 steps apart, bring nothing better; 800 steps at most.",
        (*_LITTLE, "train.max_steps=800", "train.eval_steps=40", "train.save_steps=40"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A stage 1 of the study's own, one with every seed.

    Attributes:
        title: What a reader sees.
        told: The same in a sentence.
        verb: ``pretrain``: from new adapters; ``joint``: from the shipped stage 1.
        overrides: Settings in which it differs from that verb's shipped config.
    """

    title: str
    told: str
    verb: str
    overrides: tuple[str, ...]


def _stage1(steps: int, *overrides: str) -> tuple[str, ...]:
    often = steps // 2
    return (
        "data.train=[{corpus}/asr.jsonl]", "data.validation=[{corpus}/dev_asr.jsonl]",
        f"train.max_steps={steps}", f"train.eval_steps={often}", f"train.save_steps={often}",
        "train.warmup_steps=100", *overrides,
    )  # fmt: skip


_NONE = ("alignment.method=none",)
_ALL, _ABOVE = "alignment.layers={all}", "alignment.layers={above}"
_RAW, _SPREAD, _COSINE = (
    f"alignment.options={{scale: {scale}}}" for scale in ("raw", "text_spread", "cosine")
)
_COSINE_9 = (_ALL, _COSINE, "alignment.alpha=0.9")
_SPREAD_99 = (_ALL, _SPREAD, "alignment.alpha=0.99")
_SPREAD_ABOVE_9 = (_ABOVE, _SPREAD, "alignment.alpha=0.9")
_LITERAL = (_ALL, _RAW, "alignment.alpha=0.99")
_WEAK = ("a weak stage 1", "700 steps of recognition on 3,000 sentences, from new adapters.", "pretrain")
_LONG = ("a longer stage 1", "the shipped one, 1,000 steps further on 3,000 other sentences.", "joint")
STAGES: Mapping[str, Stage] = {
    "weak": Stage(*_WEAK, _stage1(700)),
    "weak_aligned": Stage(*_WEAK, _stage1(700, "alignment.method=wasserstein", *_COSINE_9)),
    "long": Stage(*_LONG, _stage1(1_000, *_NONE)),
    "long_aligned": Stage(*_LONG, _stage1(1_000, *_COSINE_9)),
}


def _ideas(against: str, *rows: tuple[str, str, tuple[str, ...]], **same: str) -> tuple[Idea, ...]:
    return tuple(Idea(name, title, overrides, against, **same) for name, title, overrides in rows)


def _from_stages(name: str) -> tuple[Idea, ...]:
    """Return the four ways to align or not in stage 1 and in the joint run."""
    base, aligned = f"{name}_base", f"{name}_aligned"
    plain = _ideas(
        base,
        (base, "base: no alignment", _NONE),
        (f"{name}_cosine", "aligned in the joint run (cosine, α .9)", _COSINE_9),
        stage1=name,
    )
    return plain + _ideas(
        base,
        (f"{aligned}_stage1", "aligned in stage 1 (cosine, α .9)", _NONE),
        (f"{aligned}_both", "aligned in both", _COSINE_9),
        stage1=aligned,
    )


# In the order of running: a group that is finished has all its seeds before the next one begins.
GROUPS: tuple[tuple[Idea, ...], ...] = (
    _ideas(
        "base",
        ("base", "base: no alignment", _NONE),
        ("cosine", "cosine cost, all layers, α .9", _COSINE_9),
        ("spread_above", "cost / text spread, layers 1 and up, α .9", _SPREAD_ABOVE_9),
        ("spread", "cost / text spread, all layers, α .99 (the demo's)", _SPREAD_99),
        ("literal", "the paper's letter: raw cost, all layers, α .99", _LITERAL),
        ("cosine_0", "cosine cost, layer 0, α .9", ("alignment.layers=[0]", _COSINE, "alignment.alpha=0.9")),
    ),
    _ideas(
        "mixed_base",
        ("mixed_base", "base: no alignment", _NONE),
        ("mixed_cosine", "cosine cost, all layers, α .9", _COSINE_9),
        regime="mixed",
    ),
    _from_stages("long"),
    _ideas(
        "stop_base",
        ("stop_base", "base: no alignment", _NONE),
        ("stop_spread", "cost / text spread, all layers, α .99 (the demo's)", _SPREAD_99),
        ("stop_literal", "the paper's letter: raw cost, all layers, α .99", _LITERAL),
        regime="to_stop",
    ),
    _from_stages("weak"),
)  # fmt: skip


def chosen(names: list[str]) -> list[list[Idea]]:
    """Return the ideas of these names with what they are compared with, by group; all where none is named.

    Raises:
        ConfigError: There is no such idea.
    """
    known = {idea.name: idea for group in GROUPS for idea in group}
    if unknown := set(names) - known.keys():
        raise ConfigError(f"There is no idea {', '.join(sorted(unknown))}.", expected=", ".join(known))
    wanted = {*names, *(known[name].against for name in names)} if names else set(known)
    groups = [[idea for idea in group if idea.name in wanted] for group in GROUPS]
    return [group for group in groups if group]
