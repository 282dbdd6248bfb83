"""What systems are called and which colour they have in every picture."""

from __future__ import annotations


def short_title(system: str, title: str) -> str:
    """Return what a system is called where there is little room: its title without brackets."""
    return _SHORT.get(system, title.split(" (")[0])


_SHORT = {"ai_sta_raw": "literal", "layer_1_raw": "layer 1 literal"}


_HUES = {"ctc": "hue0", "contrastive": "hue1", "distillation": "hue2"}


def style_of(system: str) -> str:
    """Return the class of a system: base and AI-STA as everywhere, others by hue, layer sets pale."""
    if system == "base":
        return "base"
    if system == "ai_sta":
        return "system"
    return _HUES.get(system, "pale" if system.startswith(("layer", "ai_sta")) else "hue3")


def signed_text(value: float, digits: int | None = None) -> str:
    """Write a number with its sign and a true minus; zero has none."""
    size = f"{abs(value):g}" if digits is None else f"{abs(value):.{digits}f}"
    return size if not float(size) else ("+" if value > 0 else "−") + size
