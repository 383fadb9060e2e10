"""The card of a scvi-tools model, from its inert files.

scvi-tools saves `model.pt`: the weights, the gene names and the model's public attributes, among them `registry_`, what the
data was registered with. Before 0.15 these were three files (`model_params.pt`, `var_names.csv`, `attr.pkl`), and before
0.14 the registry was another dictionary, `scvi_setup_dict_`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...common.errors import RefmapError, listed
from ...models.card import ModelCard, texts
from ...models.folder import ModelFolder
from ...models.pickles import Tensor

NEW = "model.pt"
OLD = ("attr.pkl", "model_params.pt", "var_names.csv")
# Values of counts that are taken into memory by classes that read more from disk: 9 bytes each, half a gigabyte.
MOST_IN_MEMORY = 64_000_000


# Classes of packages that stand on scvi-tools and save its file: Multigrate's.
OF_OTHER_FAMILIES = ("MultiVAE",)


@dataclass(frozen=True)
class Class:
    """What holds for every model of one class of scvi-tools."""

    input: str = "counts"
    encodes_by_default: bool = False  # the default of `encode_covariates`: whether the encoder sees the batch
    predicts: bool = False
    fixed_batches: bool = False  # surgery takes the reference's batches alone, and learns new covariate categories
    reads_from_disk: bool = False  # surgery takes counts that are left on disk
    minified_as: str | None = None  # whose name the latent of a minified model has; none where there are no minified models
    proteins: bool = False  # it models proteins: others may have been set up with some, and make no use of them
    imputes: bool = False  # it is asked for the proteins that a query lacks
    modalities: tuple[
        str, ...
    ] = ()  # the arguments of `setup_mudata` that name layers of features, in their order; none: no MuData
    contexts: str | None = None  # instead, the argument that lists the modalities
    layers: tuple[str, ...] = ()  # with the arguments that name the layers of each of them
    sizes: dict[str, str] = field(
        default_factory=dict
    )  # of a model of an AnnData: modality -> the setting with its number of features
    unfit: str | None = None  # why refmap cannot map onto it
    unfit_setup: dict[str, str] = field(default_factory=dict)  # the same of a model that was set up with an argument
    unfit_settings: dict[tuple[str, str], str] = field(default_factory=dict)  # or that has a value of a setting


_MUDATA = "it was set up from a MuData, which refmap makes for {} alone: train it on the AnnData of its counts"
_DATAMODULE = (
    "it was set up by a data module ({}), of which its file keeps no setup that a query could be read by: train it on an AnnData "
    "with setup_anndata, backed by the same files if they are large"
)
_INSTEAD = "train a SCVI with encode_covariates=True on the same counts, and map onto that"
# Counts of methylated cytosines and of all that were covered, of the regions of each context.
_METHYLATION = {"contexts": "methylation_contexts", "layers": ("mc_layer", "cov_layer")}

CLASSES = {
    "SCVI": Class(minified_as="scvi", reads_from_disk=True),
    "SCANVI": Class(minified_as="scanvi", predicts=True, reads_from_disk=True),
    "TOTALVI": Class(minified_as="totalvi", encodes_by_default=True, proteins=True, imputes=True, modalities=("rna_layer",)),
    "TOTALANVI": Class(
        minified_as="totalvi", encodes_by_default=True, predicts=True, proteins=True, imputes=True, modalities=("rna_layer",)
    ),
    "MULTIVI": Class(
        minified_as="multivi",
        proteins=True,
        modalities=("rna_layer", "atac_layer"),
        sizes={"rna": "n_genes", "atac": "n_regions"},
        unfit_setup={
            "size_factor_key": "it was set up with size factors of each modality, of which a sheet names one: train it without",
            "protein_expression_obsm_key": "it was set up from an AnnData with proteins, which scvi-tools loads no more since 1.4: "
            "train it on a MuData",
        },
        unfit_settings={
            (
                "modality_weights",
                "cell",
            ): "it weighs the modalities cell by cell, by weights that only the reference's cells have: "
            "train it with modality_weights 'equal' or 'universal'",
        },
    ),
    "PEAKVI": Class(),
    "POISSONVI": Class(),
    "DRVI": Class(minified_as="scvi"),
    "JointEmbeddingSCVI": Class(minified_as="scvi"),
    "CYTOVI": Class(input="any"),
    # Its encoder always sees the batch, but `load_query_data` raises for a batch that the reference lacks.
    "SysVI": Class(input="lognorm", encodes_by_default=True, fixed_batches=True),
    # `load_query_data` freezes all parameters of its PyTorch version (scvi-tools 1.5.1: "empty parameter list").
    "MRVI": Class(unfit=f"its surgery leaves nothing that could be trained for new samples: {_INSTEAD}"),
    "METHYLVI": Class(encodes_by_default=True, **_METHYLATION),
    "METHYLANVI": Class(encodes_by_default=True, predicts=True, **_METHYLATION),
    # Seen in scvi-tools 1.5.1: three epochs of `load_query_data` and `train` moved the reference's cells by half a unit of the
    # latent, as Pyro trains weights whose gradients are masked; it also holds a row for each cell of the reference.
    "RESOLVI": Class(
        predicts=True, unfit=f"its surgery moves the reference's own cells, and keeps weights of each of them: {_INSTEAD}"
    ),
    "SCVIVA": Class(
        unfit="it reads beside counts and coordinates the types of a cell's neighbours and their embedding by another model, all of "
        f"which a query has only once it was mapped: {_INSTEAD}"
    ),
}

# Arguments of a setup that name further data of the query.
_UNSERVED = {
    "panel_key": "a column of protein panels",
    "sample_key": "a column of samples",
    "nan_layer": "a layer that marks the measured markers",
}

# The layer that gives the mean of the latent posterior: its rows are the latent dimensions.
_LATENT_MEANS = ("z_encoder.mean_encoder", "encoder.z_mean_encoder", "encoder.mean_encoder", "qu.output_nn.fc_mean")

# Classes whose weights tell them from the others, the more special before the more general.
_CLASS_BY_WEIGHT = {
    "z_encoder_accessibility": "MULTIVI",
    "background_pro_alpha": "TOTALVI",
    "encoder_z2_z1": "SCANVI",
    "region_factors": "PEAKVI",
    "px_r": "SCVI",
}


def is_scvi(folder: ModelFolder) -> bool:
    if folder.has(NEW):
        attributes = folder.value(NEW, "attr_dict")
        return bool(attributes) and folder.value(NEW, "attr_dict", "registry_", "model_name") not in OF_OTHER_FAMILIES
    attributes = folder.value("attr.pkl")
    return isinstance(attributes, dict) and bool({"registry_", "scvi_setup_dict_"} & set(attributes))


def scvi_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete; one that cannot be served has a card with a fault."""
    attributes, weights, genes = _read(folder)
    registry = attributes.get("registry_") or _registry_of_setup(attributes)
    name = _text(registry.get("model_name")) or _class_of(weights)
    if _is_of_drvi_py(weights):  # another package's class of the same name
        raise RefmapError(
            f"{folder.shown} is a DRVI of the package drvi-py, which scvi-tools does not load: make one of scvi-tools of it with "
            "drvi.utils.port_to_scvi_tools (drvi-py 0.2.7 or later), and give that; a model with encode_covariates=True, which it does "
            "not port, has to be trained again as scvi.external.DRVI."
        )
    kind = CLASSES.get(name)
    if kind is None:
        raise RefmapError(f"{folder.shown} is a {name or 'scvi-tools'} model, and refmap maps onto {', '.join(_served())}.")
    setup = registry.get("setup_args") or {}
    settings = _settings(attributes.get("init_params_") or {})
    card = ModelCard(model=folder.shown, class_name=name, version=_text(registry.get("scvi_version")))
    card.input = "any" if str(settings.get("gene_likelihood")).startswith("normal") else kind.input
    card.predicts, card.fixed_batches, card.minified_as = kind.predicts, kind.fixed_batches, kind.minified_as
    card.latent_of_labels = kind.predicts
    card.most_in_memory = MOST_IN_MEMORY if kind.reads_from_disk else None
    card.n_latent = _n_latent(weights, settings)
    card.layer = _text(setup.get("layer"))
    card.size_factor_key = _text(setup.get("size_factor_key"))
    _describe_fields(card, kind, registry, setup)
    if isinstance(genes, dict):  # a model of a MuData has genes by modality
        of_setup = setup.get("modalities") or {}
        held = texts(setup.get(kind.contexts)) or [of_setup[name] for name in kind.modalities if of_setup.get(name) is not None]
        card.layers = texts(setup.get(argument) for argument in kind.layers)
        card.protein_key, card.layer = _text(of_setup.get("protein_layer")), _text(setup.get("rna_layer"))
        card.modality = _text(held[0]) if held else None
        if len(held) > 1:
            card.modalities = {str(name): len(genes[name]) for name in held}
        genes = [gene for name in held for gene in genes.get(name, [])]
    elif kind.sizes:
        card.modalities = {name: int(settings.get(size) or 0) for name, size in kind.sizes.items()}
        card.modality = next(iter(card.modalities))
        if sum(card.modalities.values()) != len(genes):
            made_for = " and ".join(f"{card.modalities[name]:,} {size.removeprefix('n_')}" for name, size in kind.sizes.items())
            card.fault = f"{folder.shown} is damaged: its {len(genes):,} features are not the {made_for} that it was made for."
    card.genes = texts(genes)
    if unfit := _unfit(kind, registry, setup, settings):
        card.fault = f"{folder.shown} is a {name} model, which cannot be mapped onto: {unfit}."
    encodes = bool(settings.get("encode_covariates", kind.encodes_by_default))
    learned = _learned(card)
    card.surgery_ready = encodes and bool(learned)
    card.warnings = _warnings(folder, card, encodes, learned)
    return card


def _is_of_drvi_py(weights: dict) -> bool:
    """By the weights: a model that was ported from drvi-py keeps the version of drvi-py in its registry."""
    return any(name.startswith("decoder.params_nets.") for name in weights)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _served() -> list[str]:
    return [name for name, kind in CLASSES.items() if not kind.unfit]


def _read(folder: ModelFolder) -> tuple[dict, dict, object]:
    """Attributes, weights (as shapes) and gene names of either format."""
    if folder.has(NEW):
        attributes, weights = folder.value(NEW, "attr_dict"), folder.value(NEW, "model_state_dict")
        genes, where = folder.value(NEW, "var_names"), folder.show(NEW)
    else:
        missing = [name for name in OLD if not folder.has(name)]
        if missing:
            raise RefmapError(f"{folder.shown} lacks {', '.join(missing)}, which models of scvi-tools before 0.15 consist of.")
        attributes, weights = folder.value("attr.pkl"), folder.value("model_params.pt")
        genes, where = _names_in(folder), folder.shown
    if not isinstance(attributes, dict) or not isinstance(weights, dict) or not weights or not len(genes):
        raise RefmapError(f"{where} is incomplete: it lacks the weights, the gene names or the attributes of a model.")
    return attributes, weights, genes


def _names_in(folder: ModelFolder) -> list[str]:
    text = (folder.path / "var_names.csv").read_text(encoding="utf-8", errors="replace")
    return [name for line in text.splitlines() for name in line.split(",") if name]


def _settings(init: dict) -> dict:
    """The arguments of the model's constructor; old models keep them flat, newer ones apart from their **kwargs."""
    given = dict(init.get("non_kwargs", {k: v for k, v in init.items() if not isinstance(v, dict)}))
    nested = init.get("kwargs", {k: v for k, v in init.items() if isinstance(v, dict)})
    for keywords in nested.values():
        given.update(keywords)
    return given


def _class_of(weights: dict) -> str | None:
    """The class of a model that does not say it, by the names of its weights."""
    modules = {key.split(".")[0] for key in weights}
    return next((name for module, name in _CLASS_BY_WEIGHT.items() if module in modules), None)


def _n_latent(weights: dict, settings: dict) -> int | None:
    for layer in _LATENT_MEANS:
        weight = weights.get(f"{layer}.weight", weights.get(f"{layer}.0.weight"))
        if isinstance(weight, Tensor):
            return int(weight.shape[0])
    n_latent = settings.get("n_latent")
    return None if n_latent is None else int(n_latent)


def _describe_fields(card: ModelCard, kind: Class, registry: dict, setup: dict) -> None:
    """Batches, labels, covariates and proteins from the registry's fields."""

    def state(field: str) -> dict:
        return (registry.get("field_registries", {}).get(field) or {}).get("state_registry") or {}

    def original(field: str) -> str | None:
        """The column that the user named; the library fills in one of its own (`_scvi_batch`) where there was none."""
        key = state(field).get("original_key")
        return None if key is None or str(key).startswith("_scvi") else str(key)

    card.batch_key = original("batch")
    if card.batch_key:
        card.batches = texts(state("batch").get("categorical_mapping"))
    if labels_key := original("labels"):
        card.unlabeled_category = _text(state("labels").get("unlabeled_category"))
        labels = texts(state("labels").get("categorical_mapping"))
        card.labels = {labels_key: [label for label in labels if label != card.unlabeled_category]}
    mappings = state("extra_categorical_covs").get("mappings") or {}
    card.categorical_covariates = {str(key): texts(values) for key, values in mappings.items()}
    card.continuous_covariates = texts(state("extra_continuous_covs").get("columns"))
    if kind.proteins:
        card.protein_key = _text(setup.get("protein_expression_obsm_key"))
        card.proteins = texts(state("proteins").get("column_names"))


def _unfit(kind: Class, registry: dict, setup: dict, settings: dict) -> str | None:
    """Why refmap cannot map onto the model, as the second half of a sentence."""
    method = registry.get("setup_method_name", "setup_anndata")
    if kind.unfit:
        return kind.unfit
    if method == "setup_mudata" and not (kind.modalities or kind.contexts):
        return _MUDATA.format(listed(name for name, other in CLASSES.items() if other.modalities or other.contexts))
    if method not in ("setup_anndata", "setup_mudata"):
        return _DATAMODULE.format(method)
    reasons = [why for key, why in kind.unfit_setup.items() if setup.get(key) is not None]
    reasons += [why for (key, value), why in kind.unfit_settings.items() if settings.get(key) == value]
    if reasons:
        return reasons[0]
    unserved = [what for key, what in _UNSERVED.items() if setup.get(key) is not None]
    return f"it needs {unserved[0]}, which refmap does not give it yet" if unserved else None


def _learned(card: ModelCard) -> list[str]:
    """What surgery learns of a query, as parts of a sentence."""
    batches = ["the query's batches"] if card.batch_key and not card.fixed_batches else []
    covariates = listed(card.categorical_covariates)
    return batches + ([f"the categories of {covariates} that are new in the query"] if card.categorical_covariates else [])


def _warnings(folder: ModelFolder, card: ModelCard, encodes: bool, learned: list[str]) -> list[str]:
    """What surgery cannot do for a query, and what it does learn."""
    if card.fault:
        return []
    batchless = f"is a {card.class_name}, which takes no new batches" if card.batch_key else "was set up without a batch column"
    if not learned:
        return [
            f"{folder.shown} {batchless}, and without categorical covariates: surgery has nothing to learn, and the query is "
            "embedded as the reference would."
        ]
    if not encodes:
        unseen = " and ".join(["the batch"] * bool(card.batch_key) + ["the covariates"] * bool(card.categorical_covariates))
        return [
            f"{folder.shown} was trained without encode_covariates=True: its encoder never sees {unseen}, so surgery, which learns "
            f"{' and '.join(learned)}, cannot move the query in the latent space, whatever its batch effect; retrain the reference "
            "with encode_covariates=True."
        ]
    if not card.batch_key or card.fixed_batches:
        return [
            f"{folder.shown} {batchless}: surgery learns {' and '.join(learned)}, and nothing else that sets the query apart from "
            "the reference."
        ]
    return []


def _registry_of_setup(attributes: dict) -> dict:
    """The registry of a model of scvi-tools before 0.14, from its `scvi_setup_dict_`."""
    setup = attributes.get("scvi_setup_dict_")
    if not isinstance(setup, dict):
        raise RefmapError(
            "The model's attributes hold no registry: convert it with convert_legacy_save of the scvi-tools that saved it."
        )
    data, columns = setup.get("data_registry", {}), setup.get("categorical_mappings", {})

    def of(field: str, what: str) -> str | None:
        return (data.get(field) or {}).get(what)

    def categorical(field: str) -> dict:
        column = columns.get(of(field, "attr_key")) or {}
        return {"original_key": column.get("original_key"), "categorical_mapping": column.get("mapping")}

    labels = categorical("labels") | {"unlabeled_category": attributes.get("unlabeled_category_")}
    states = {
        "batch": categorical("batch_indices"),
        "labels": labels,
        "extra_categorical_covs": {"mappings": (setup.get("extra_categoricals") or {}).get("mappings")},
        "extra_continuous_covs": {"columns": setup.get("extra_continuous_keys")},
        "proteins": {"column_names": setup.get("protein_names")},
    }
    return {
        "scvi_version": setup.get("scvi_version"),
        "field_registries": {name: {"state_registry": state} for name, state in states.items()},
        "setup_args": {
            "layer": of("X", "attr_key") if of("X", "attr_name") == "layers" else None,
            "protein_expression_obsm_key": of("protein_expression", "attr_key"),
        },
    }
