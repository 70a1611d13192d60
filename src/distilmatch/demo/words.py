"""The words of the generated catalogue: what there is to buy, and in how many ways each thing is said.

Every value is a tuple of surface forms that mean the same; query and product each pick one of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

Forms = tuple[str, ...]

BRANDS = ("Altero", "Nordvik", "Lumina", "Castello", "Brightway", "Ostara")

_COLOURS: tuple[Forms, ...] = (
    ("black",),
    ("white", "ivory"),
    ("red", "crimson"),
    ("dark blue", "navy"),
    ("light blue", "sky blue"),
    ("green", "emerald"),
)
_DRINK_MATERIALS: tuple[Forms, ...] = (("steel", "inox"), ("glass",), ("plastic", "polycarbonate"))
_CLOTHES_MATERIALS: tuple[Forms, ...] = (("cotton",), ("wool", "merino"), ("linen", "flax"))
_BAG_MATERIALS: tuple[Forms, ...] = (("leather", "cowhide"), ("canvas",), ("nylon", "polyamide"))
_CASE_MATERIALS: tuple[Forms, ...] = (("leather", "cowhide"), ("silicone", "rubber"), ("wood", "bamboo"))

_CAPACITIES: tuple[Forms, ...] = (
    ("0.5 l", "500 ml", "half a litre"),
    ("0.75 l", "750 ml"),
    ("1 l", "1000 ml", "one litre"),
    ("1.5 l", "1500 ml"),
)
_SIZES: tuple[Forms, ...] = (("small", "size S"), ("medium", "size M"), ("large", "size L"))
_SEATS: tuple[Forms, ...] = (
    ("two-seater", "for 2 people"),
    ("three-seater", "for 3 people"),
    ("four-seater", "for 4 people"),
)
_PACKS: tuple[Forms, ...] = (("2-pack", "set of two"), ("4-pack", "set of four"), ("6-pack", "set of six"))
_LENGTHS: tuple[Forms, ...] = (("1 m", "100 cm"), ("2 m", "200 cm"), ("3 m", "300 cm"))
_PHONES: tuple[Forms, ...] = (("Orbit 5",), ("Orbit 6",), ("Pixa 10",), ("Pixa 12",))
_LAPTOPS: tuple[Forms, ...] = (("Vela 13",), ("Vela 15",), ("Quanta Air",), ("Quanta Max",))


@dataclass(frozen=True, kw_only=True)
class Category:
    """One kind of product.

    Attributes:
        names: ways to call it.
        brands: indices into `BRANDS` of those who make it.
        values: by attribute, the values it comes in.
        features: parts that a product has or has not.
    """

    names: Forms
    brands: tuple[int, ...]
    values: dict[str, tuple[Forms, ...]]
    features: Forms


CATEGORIES = (
    Category(
        names=("water bottle", "drinking flask"),
        brands=(0, 1, 2, 3),
        values={"colour": _COLOURS, "material": _DRINK_MATERIALS, "capacity": _CAPACITIES},
        features=("straw",),
    ),
    Category(
        names=("mug", "cup"),
        brands=(2, 3, 4, 5),
        values={"colour": _COLOURS, "material": _DRINK_MATERIALS, "pack": _PACKS},
        features=("lid",),
    ),
    Category(
        names=("backpack", "rucksack"),
        brands=(0, 1, 4, 5),
        values={"colour": _COLOURS, "material": _BAG_MATERIALS, "size": _SIZES},
        features=("pockets",),
    ),
    Category(
        names=("sweater", "jumper"),
        brands=(1, 2, 3, 5),
        values={"colour": _COLOURS, "material": _CLOTHES_MATERIALS, "size": _SIZES},
        features=("pockets",),
    ),
    Category(
        names=("sofa", "couch"),
        brands=(0, 2, 3, 4),
        values={"colour": _COLOURS, "material": _BAG_MATERIALS, "seats": _SEATS},
        features=("armrests",),
    ),
    Category(
        names=("phone case", "phone cover"),
        brands=(0, 1, 3, 5),
        values={"colour": _COLOURS, "material": _CASE_MATERIALS, "fits": _PHONES},
        features=("strap",),
    ),
    Category(
        names=("laptop charger", "power adapter"),
        brands=(0, 2, 4, 5),
        values={"colour": _COLOURS, "length": _LENGTHS, "fits": _LAPTOPS},
        features=("USB port",),
    ),
    Category(
        names=("lunch box", "food container"),
        brands=(1, 2, 3, 4),
        values={"colour": _COLOURS, "material": _DRINK_MATERIALS, "capacity": _CAPACITIES},
        features=("lid",),
    ),
)
