"""Census with a small MLP: is a person 40 or older, and been to college?"""

from __future__ import annotations

from palora.recipes.recipe import Recipe

RECIPE = Recipe(
    name="census",
    summary="age and education of a person, MLP",
    source=(
        "PaMaL paper, Sec. 5.1 and App. B: Adam 1e-3, 10 epochs; batch 256 from its code, and from there the "
        "education of people with a master's degree counted as no college (--data-option masters=true counts them). "
        "PaMaL: W = 2, λ = 5 (code and appendix D; the main text says W = 3, λ = 10). PaLoRA has no experiment on "
        "Census: r = 1 and its MultiMNIST schedule. COSMOS: λ = 8."
    ),
    dataset="census",
    dataset_options={"masters": False},
    model="mlp",
    model_options={"inputs": 468, "hidden": (256,), "outputs": (2, 2)},
    method_options={"pamal": {"window": 2, "regularisation": 5.0}, "cosmos": {"cosine": 8.0}},
    epochs=10,
    batch=256,
    lr=1e-3,
    takes="about 1 minute",
)
