"""The words of the generated catalogue: what there is to buy, and in how many ways each thing is said.

Every value is a tuple of surface forms that mean the same; query and product each pick one of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

Forms = tuple[str, ...]

BRANDS = ("Altero", "Nordvik", "Lumina", "Castello", "Brightway", "Ostara", "Kelvo", "Tamarind", "Zephyra", "Harrow")

COLOURS: tuple[Forms, ...] = (
    ("black", "ebony"),
    ("white", "ivory"),
    ("grey", "charcoal"),
    ("red", "crimson"),
    ("navy", "dark blue"),
    ("sky blue", "light blue"),
    ("green", "emerald"),
    ("pink", "rose"),
)

_DRINK_MATERIALS: tuple[Forms, ...] = (
    ("stainless steel", "inox"),
    ("glass", "borosilicate"),
    ("plastic", "polycarbonate"),
    ("ceramic", "porcelain"),
)
_CLOTHES_MATERIALS: tuple[Forms, ...] = (
    ("cotton",),
    ("wool", "merino"),
    ("polyester", "synthetic fibre"),
    ("linen", "flax"),
)
_BAG_MATERIALS: tuple[Forms, ...] = (("leather", "cowhide"), ("canvas", "sailcloth"), ("nylon", "polyamide"))
_HARD_MATERIALS: tuple[Forms, ...] = (("wood", "oak"), ("metal", "steel"), ("plastic", "acrylic"))
_CASE_MATERIALS: tuple[Forms, ...] = (("leather", "cowhide"), ("silicone", "rubber"), ("wood", "bamboo"))

_CAPACITIES: tuple[Forms, ...] = (
    ("0.5 l", "500 ml", "half a litre"),
    ("0.75 l", "750 ml"),
    ("1 l", "1000 ml", "one litre"),
    ("1.5 l", "1500 ml"),
)
_BAG_CAPACITIES: tuple[Forms, ...] = (("15 l", "15 litres"), ("20 l", "20 litres"), ("30 l", "30 litres"))
_SIZES: tuple[Forms, ...] = (("small", "size S"), ("medium", "size M"), ("large", "size L"), ("extra large", "size XL"))
_BEDS: tuple[Forms, ...] = (
    ("single bed", "90 x 200 cm"),
    ("double bed", "140 x 200 cm"),
    ("king-size bed", "180 x 200 cm"),
)
_SEATS: tuple[Forms, ...] = (
    ("two-seater", "for 2 people"),
    ("three-seater", "for 3 people"),
    ("four-seater", "for 4 people"),
)
_PACKS: tuple[Forms, ...] = (
    ("2-pack", "set of two"),
    ("4-pack", "set of four"),
    ("6-pack", "set of six"),
    ("12-pack", "a dozen pieces"),
)
_LENGTHS: tuple[Forms, ...] = (("1 m", "100 cm"), ("2 m", "200 cm"), ("3 m", "300 cm"))
_DIAMETERS: tuple[Forms, ...] = (("20 cm",), ("24 cm",), ("28 cm",), ("32 cm",))

_PHONES: tuple[Forms, ...] = (("Orbit 5",), ("Orbit 6",), ("Orbit 6 Pro",), ("Pixa 10",), ("Pixa 12",))
_LAPTOPS: tuple[Forms, ...] = (("Vela 13",), ("Vela 15",), ("Quanta Air",), ("Quanta Max",))
_VACUUMS: tuple[Forms, ...] = (("Dusto 300",), ("Dusto 500",), ("Cyclo Mini",), ("Cyclo Max",))


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
        values={"colour": COLOURS, "material": _DRINK_MATERIALS[:3], "capacity": _CAPACITIES},
        features=("straw", "carrying loop"),
    ),
    Category(
        names=("mug", "coffee cup"),
        brands=(2, 3, 4, 5),
        values={"colour": COLOURS, "material": _DRINK_MATERIALS, "pack": _PACKS},
        features=("lid", "saucer"),
    ),
    Category(
        names=("lunch box", "food container"),
        brands=(0, 4, 5, 6),
        values={"colour": COLOURS, "material": _DRINK_MATERIALS[:3], "capacity": _CAPACITIES},
        features=("dividers", "cutlery"),
    ),
    Category(
        names=("backpack", "rucksack"),
        brands=(1, 6, 7, 8),
        values={"colour": COLOURS, "material": _BAG_MATERIALS, "capacity": _BAG_CAPACITIES},
        features=("laptop sleeve", "chest strap"),
    ),
    Category(
        names=("sweater", "jumper"),
        brands=(1, 5, 7, 9),
        values={"colour": COLOURS, "material": _CLOTHES_MATERIALS, "size": _SIZES},
        features=("hood", "pockets"),
    ),
    Category(
        names=("trousers", "pants"),
        brands=(5, 7, 8, 9),
        values={"colour": COLOURS, "material": _CLOTHES_MATERIALS, "size": _SIZES},
        features=("belt", "pockets"),
    ),
    Category(
        names=("sofa", "couch"),
        brands=(3, 4, 8, 9),
        values={"colour": COLOURS, "material": (*_BAG_MATERIALS[:1], *_CLOTHES_MATERIALS[:2]), "seats": _SEATS},
        features=("armrests", "storage box"),
    ),
    Category(
        names=("duvet cover", "quilt cover"),
        brands=(2, 5, 8, 9),
        values={"colour": COLOURS, "material": _CLOTHES_MATERIALS, "bed": _BEDS},
        features=("zip", "pillowcase"),
    ),
    Category(
        names=("desk lamp", "table light"),
        brands=(0, 2, 6, 9),
        values={"colour": COLOURS, "material": _HARD_MATERIALS},
        features=("dimmer", "USB port"),
    ),
    Category(
        names=("phone case", "mobile cover"),
        brands=(0, 6, 7, 8),
        values={"colour": COLOURS, "material": _CASE_MATERIALS, "fits": _PHONES},
        features=("card slot", "wrist strap"),
    ),
    Category(
        names=("laptop charger", "notebook power adapter"),
        brands=(0, 2, 6, 8),
        values={"colour": COLOURS[:3], "length": _LENGTHS, "fits": _LAPTOPS},
        features=("USB port", "travel plug"),
    ),
    Category(
        names=("frying pan", "skillet"),
        brands=(1, 3, 4, 6),
        values={
            "colour": COLOURS[:4],
            "material": (("cast iron",), ("stainless steel", "inox"), ("copper",)),
            "diameter": _DIAMETERS,
        },
        features=("lid", "second handle"),
    ),
    Category(
        names=("vacuum cleaner bags", "hoover bags"),
        brands=(1, 4, 6, 9),
        values={"material": (("paper",), ("fleece", "microfibre")), "pack": _PACKS, "fits": _VACUUMS},
        features=("odour filter", "closing flap"),
    ),
)
