"""With which queue the App opens."""

ORDERS = {
    "gain": "Review order",
    "doubt": "Doubtful objects",
    "uncertain": "Uncertain first",
    "conflicts": "Conflicts",
    "shapes": "Odd shapes",
    "missed": "Likely missed",
    "different": "Most different",
    "proposals": "Proposals",
    "path": "",
}
"""Name of an order -> the saved view that has it; none for all images by their paths."""
DEFAULT_ORDER = "gain"
