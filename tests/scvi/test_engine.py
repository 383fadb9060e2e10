"""The engine of surgery: the loss and the gradients of scvi-tools' own module, on the same weights, minibatch and noise."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from mapping import map_cells
from refmap.families.base import Settings
from refmap.families.scvi.engine.fitting import Stopping
from refmap.families.scvi.engine.likelihood import Counts
from refmap.families.scvi.surgery import Surgery
from refmap.reference.inspection import inspect_model
from scipy.special import gammaln
from small_models import small_cells


@pytest.fixture(scope="module")
def atlas(pbmc):
    """Cells with size factors, to train references on."""
    return with_sizes(small_cells(pbmc))


@pytest.fixture(scope="module")
def query(pbmc):
    """Cells of two new batches and one of the reference's, one new level of a covariate, some with labels; genes in order."""
    adata = with_sizes(small_cells(pbmc))[:90].copy()
    adata.obs["batch"] = pd.Categorical(np.resize(["d1", "d2", "ref_a"], adata.n_obs))
    adata.obs["chemistry"] = pd.Categorical(np.resize(["v2", "v4", "v3", "v2"], adata.n_obs))
    return adata


def with_sizes(adata):
    adata.obs["size"] = np.random.default_rng(0).uniform(0.5, 2, adata.n_obs)
    return adata


COVARIATES = {"categorical_covariate_keys": ["chemistry"], "continuous_covariate_keys": ["age"]}
# Name: class, arguments of its setup and of its constructor
NORMS = {"use_batch_norm": "both", "use_layer_norm": "both"}
MODELS = {
    **{
        f"SCVI of {kind}": ("SCVI", {}, {"gene_likelihood": kind, "encode_covariates": True})
        for kind in ("nb", "zinb", "poisson")
    },
    **{
        f"SCVI of {kind}, dispersion {dispersion}": (
            "SCVI",
            {"labels_key": "bulk_labels"},
            {"gene_likelihood": kind, "dispersion": dispersion, "encode_covariates": True},
        )
        for kind in ("nb", "zinb")
        for dispersion in ("gene-batch", "gene-label", "gene-cell")
    },
    "Poisson, dispersion gene-batch": ("SCVI", {}, {"gene_likelihood": "poisson", "dispersion": "gene-batch"}),
    "covariates, injected": ("SCVI", COVARIATES, {"n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": True}),
    "covariates, not injected": (
        "SCVI",
        COVARIATES,
        {"n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": False},
    ),
    "covariates, not encoded": ("SCVI", COVARIATES, {"n_layers": 2, "encode_covariates": False}),
    "embedded batches": ("SCVI", COVARIATES, {"batch_representation": "embedding", "encode_covariates": True}),
    "embedded batches, not encoded": ("SCVI", {}, {"batch_representation": "embedding", "gene_likelihood": "nb"}),
    "size factors": ("SCVI", {"size_factor_key": "size"}, {"gene_likelihood": "nb", "encode_covariates": True}),
    "inferred sizes": ("SCVI", COVARIATES, {"use_observed_lib_size": False, "encode_covariates": True}),
    "inferred sizes, embedded batches": (
        "SCVI",
        COVARIATES,
        {"use_observed_lib_size": False, "encode_covariates": True, "batch_representation": "embedding"},
    ),
    "both norms": ("SCVI", {}, {"n_layers": 2, "encode_covariates": True, **NORMS}),
    "logistic normal, counts as they are": (
        "SCVI",
        {},
        {"latent_distribution": "ln", "log_variational": False, "encode_covariates": True},
    ),
    "SCANVI": ("SCANVI", COVARIATES, {"n_layers": 2, "encode_covariates": True, "gene_likelihood": "nb"}),
    "SCANVI, inferred sizes, norms": ("SCANVI", {}, {"use_observed_lib_size": False, "encode_covariates": True, **NORMS}),
    "SCANVI, linear classifier": (
        "SCANVI",
        {},
        {"linear_classifier": True, "encode_covariates": True, "dispersion": "gene-batch"},
    ),
}
ARGUMENTS = {"max_epochs": 1, "early_stopping": False, "check_val_every_n_epoch": 1}


@pytest.fixture(scope="module")
def grown(atlas, query, tmp_path_factory):
    """Grow an untrained model by the query: returns the surgery, ready to train."""
    import scvi

    def grow(
        name: str,
        setup: dict,
        settings: dict,
        dropout: bool = False,
        labelled: bool = False,
        n_cells: int | None = None,
        train: dict | None = None,
    ) -> Surgery:
        kind = getattr(scvi.model, name)
        scvi.settings.seed = 0
        cells, folder = atlas.copy(), tmp_path_factory.mktemp("model")
        labels = {"labels_key": "bulk_labels", "unlabeled_category": "Unknown"} if name == "SCANVI" else {}
        kind.setup_anndata(cells, batch_key="batch", **(labels | setup))
        model = kind(cells, n_latent=4, n_hidden=16, dropout_rate=0.3, **settings)
        with torch.no_grad():  # statistics of batch norm and dispersions, as of a model that was trained
            for key, values in model.module.state_dict().items():
                if key.endswith("running_var"):
                    values.uniform_(0.5, 2)
                elif key.endswith("running_mean"):
                    values.normal_()
        model.is_trained_ = True
        model.save(str(folder), overwrite=True)
        cells = query[:n_cells].copy()
        if name == "SCANVI" and not labelled:
            cells.obs["bulk_labels"] = "Unknown"
        card = inspect_model(folder, "atlas").to_json()
        surgery = Surgery.prepare(folder, cells.copy(), card, Settings(freeze_dropout=not dropout, train=train))
        with torch.no_grad():  # where training may have led
            for key, parameter in surgery.model.module.named_parameters():
                if key in surgery.growths and parameter.requires_grad and not surgery._retrained(key):
                    parameter += torch.randn_like(parameter) * 0.3 * surgery.growths[key].trainable
        surgery.switch_dropout()
        surgery.again = lambda engine: Surgery.prepare(
            folder, cells.copy(), card, Settings(freeze_dropout=not dropout, engine=engine)
        )
        return surgery

    return grow


def by_scvi_tools(surgery: Surgery) -> Surgery:
    """The same surgery by scvi-tools, with the same weights."""
    theirs = surgery.again("scvi")
    module = theirs.model.module.to(surgery.cells.network.dtype)
    ours, held = (of.state_dict() for of in (surgery.model.module, module))
    assert list(ours) == list(held)
    for name, values in held.items():
        values.copy_(ours[name])
    theirs.switch_dropout()
    return theirs


def trainer(surgery: Surgery, free: bool = False, **settings):
    return surgery.trainer(ARGUMENTS | settings | {"free": free})


class Noise:
    """The same normal numbers for whoever draws those of the same shape, in the same order."""

    def __init__(self):
        self.drawn: dict[tuple, list[torch.Tensor]] = {}
        self.next = {}

    def restart(self):
        self.next = {}

    def __call__(self, shape, dtype, device="cpu"):
        key = (int(np.prod(shape[:-1])), shape[-1])
        number = self.next.setdefault(key, itertools.count()).__next__()
        known = self.drawn.setdefault(key, [])
        while len(known) <= number:
            known.append(torch.from_numpy(np.random.default_rng([*key, len(known)]).normal(size=key)))
        return known[number].to(dtype).reshape(shape)


def tensors_of(model, places):
    loader = model._make_data_loader(adata=model.adata, indices=places, batch_size=len(places))
    return next(iter(loader))


def scvi_losses(theirs, places, labelled, kl_weight, ratio, noise, monkeypatch):
    """The loss of scvi-tools, its gradients by name, and its parts by cell."""
    module = theirs.model.module
    noise.restart()
    monkeypatch.setattr("torch.distributions.normal._standard_normal", noise)
    dtype = next(module.parameters()).dtype
    tensors = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors_of(theirs.model, places).items()
    }
    kwargs = {"kl_weight": kl_weight}
    if labelled is not None:
        inputs = tensors_of(theirs.model, labelled)
        kwargs["labelled_tensors"] = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        kwargs["classification_ratio"] = ratio
    torch.manual_seed(0)
    module.zero_grad()
    _, _, output = module(tensors, loss_kwargs=kwargs)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.requires_grad and p.grad is not None}
    return output, gradients


def engine_losses(surgery, of, places, labelled, kl_weight, noise):
    noise.restart()
    of.kl_weight, of.network.noise = kl_weight, noise
    module, learned = surgery.model.module, of.network.learned
    torch.manual_seed(0)
    module.zero_grad()
    for leaf in learned.leaves:
        leaf.grad = None
    losses = of.losses(places, labelled)
    losses.loss.backward()
    parameters = dict(module.named_parameters())
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    for name, start, rows in learned.tables:
        if rows.grad is not None:
            gradients[name] = torch.zeros_like(parameters[name])
            gradients[name][:, start:] = rows.grad.T
    return losses, gradients


def close(found, expected, rtol):
    """Equal as a whole: what is rounded in a value that others nearly cancel is no difference."""
    assert found.shape == expected.shape
    assert float((found - expected).norm()) <= rtol * max(float(expected.norm()), 1e-6 * expected.numel() ** 0.5)


# In double precision, in which the difference is none, and not of those of which scvi-tools makes floats on the way
DOUBLE = ["SCVI of zinb", "size factors", "covariates, injected", "SCANVI"]


@pytest.mark.parametrize(("name", "double"), [*((name, False) for name in MODELS), *((name, True) for name in DOUBLE)])
def test_loss_and_gradients_are_those_of_scvi_tools(name, double, grown, monkeypatch):
    kind, setup, settings = MODELS[name]
    surgery = grown(kind, setup, settings, dropout=True, labelled=kind == "SCANVI")
    if double:
        surgery.model.module.double()
    of, theirs = trainer(surgery), by_scvi_tools(surgery)
    places = np.random.default_rng(0).permutation(len(surgery.cells))[:40]
    labelled = places[of.model.data.is_labelled[places]] if kind == "SCANVI" else None
    noise = Noise()
    expected, gradients = scvi_losses(theirs, places, labelled, 0.3, of.plan.get("classification_ratio"), noise, monkeypatch)
    losses, found = engine_losses(surgery, of, places, labelled, 0.3, noise)

    rtol = 1e-9 if double else 1e-4
    assert float(losses.loss.detach()) == pytest.approx(float(expected.loss), rel=rtol)
    close(losses.reconstruction.detach(), expected.dict_sum(expected.reconstruction_loss).detach(), rtol)
    close(losses.kl_local.detach(), expected.dict_sum(expected.kl_local).detach(), rtol)
    assert found.keys() == gradients.keys() and found
    for key, gradient in gradients.items():
        close(found[key], gradient, rtol)


@pytest.mark.parametrize("name", MODELS)
def test_latent_labels_and_expected_shares_are_those_of_scvi_tools(name, grown):
    kind, setup, settings = MODELS[name]
    surgery = grown(kind, setup, settings)
    theirs = by_scvi_tools(surgery)
    latent, expected = surgery.embed(), theirs.embed()
    assert latent.dtype == expected.dtype
    # Of a logistic normal latent both are means of samples
    np.testing.assert_allclose(latent, expected, atol=0.02 if "latent_distribution" in settings else 1e-5)
    labels, expected_labels = surgery.predict(), theirs.predict()
    assert list(labels) == list(expected_labels) == ["bulk_labels"] * (kind == "SCANVI")
    for key, prediction in labels.items():
        assert prediction.classes == expected_labels[key].classes and len(prediction.classes) == 10
        np.testing.assert_allclose(prediction.probabilities, expected_labels[key].probabilities, atol=1e-5)
    ours, of_theirs = surgery.decoder(latent), theirs.decoder(latent)
    assert ours.n_batches == of_theirs.n_batches
    np.testing.assert_array_equal(ours.weights, of_theirs.weights)
    counts = np.array([0.0, 1.0, 7.5])
    np.testing.assert_array_equal(ours.enters(counts), of_theirs.enters(counts))
    cells = np.array([3, 0, 7, 7, 50])
    for batches in (None, np.array([0, 1, 0, 1, 1])):
        (shares, dispersion), (expected, expected_dispersion) = (of.decode(cells, batches) for of in (ours, of_theirs))
        assert shares.dtype == expected.dtype
        np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-9)
        assert (dispersion is None) == (expected_dispersion is None)
        if dispersion is not None:
            dispersion, expected_dispersion = (np.broadcast_to(of, shares.shape) for of in (dispersion, expected_dispersion))
            np.testing.assert_allclose(dispersion, expected_dispersion, rtol=1e-4)


def same(found, expected, at: str = "") -> None:
    """Two values of saved models are equal, with the types, shapes and order of all that they hold."""
    assert type(found) is type(expected), at
    if isinstance(expected, dict):
        assert list(found) == list(expected), at
        for key, value in expected.items():
            same(found[key], value, f"{at}/{key}")
    elif isinstance(expected, (torch.Tensor, np.ndarray)):
        assert found.dtype == expected.dtype and found.shape == expected.shape, at
        assert bool((found == expected).all()), at
        if expected.dtype == object:
            assert list(map(type, found)) == list(map(type, expected)), at
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected)
    else:
        assert found == expected, at


@pytest.mark.parametrize(
    ("name", "labelled"), [*((name, False) for name in MODELS), *((name, True) for name in MODELS if name.startswith("SCANVI"))]
)
def test_what_is_saved_is_what_scvi_tools_saves(name, labelled, grown, tmp_path):
    """To the last value, as the same seed draws the same numbers; but for the number that each set of data has."""
    kind, setup, settings = MODELS[name]
    surgery = grown(kind, setup, settings, labelled=labelled)
    saved = []
    for engine in ("auto", "scvi"):
        Surgery.seed(0)
        again = surgery.again(engine)
        again.embed()
        again.save(tmp_path / engine)
        saved.append(torch.load(tmp_path / engine / "model.pt", weights_only=False))
        assert (again.parameters_total, again.parameters_trainable) == (surgery.parameters_total, surgery.parameters_trainable)
        assert again.reference_sha256() == again.frozen_sha256() == surgery.reference_sha256()
    ours, theirs = ({"drawn": of["attr_dict"]["registry_"].pop("_scvi_uuid")} for of in saved)
    assert ours != theirs and len(ours["drawn"]) == len(theirs["drawn"])
    same(*saved)


@pytest.mark.parametrize("name", ["covariates, injected", "SCANVI", "inferred sizes, embedded batches"])
def test_what_is_saved_loads_in_scvi_tools_and_grows_there(name, grown, query, tmp_path):
    import scvi

    kind, setup, settings = MODELS[name]
    surgery = grown(kind, setup, settings)
    history, _trained = surgery.train(SHORT, lambda line: None)
    surgery.save(tmp_path)
    cells = query.copy()
    if kind == "SCANVI":
        cells.obs["bulk_labels"] = pd.Categorical(["Unknown"] * cells.n_obs)
    of = getattr(scvi.model, kind)
    loaded = of.load(str(tmp_path), adata=cells)
    np.testing.assert_allclose(loaded.get_latent_representation(), surgery.embed(), atol=1e-5)
    assert list(loaded.history) == list(history) and loaded.is_trained
    np.testing.assert_array_equal(loaded.train_indices, surgery.model.split.train)
    for column, value in {"batch": "d3", "chemistry": "v5"}.items():
        cells.obs[column] = pd.Categorical([value] * cells.n_obs)
    again = of.load_query_data(cells, str(tmp_path))
    assert list(again.adata_manager.get_state_registry("batch").categorical_mapping) == ["ref_a", "ref_b", "d1", "d2", "d3"]
    again.is_trained_ = True
    assert again.get_latent_representation().shape == (len(cells), 4)


@pytest.mark.parametrize("kind", ["nb", "poisson"])
def test_what_hangs_on_no_mean_is_that_of_any_count(kind, grown):
    """Small counts, large ones and fractions, against the formula."""
    network = grown("SCVI", {}, {"gene_likelihood": kind}).network
    values, genes = np.array([1, 2, 63, 64, 700, 0.5, 3.25, 3]), np.array([0, 3, 5, 5, 2, 0, 1, 3])
    counts = Counts(torch.tensor([0, 3, 3, 8]), torch.from_numpy(genes), torch.from_numpy(values).float())
    expected = gammaln(values + 1)
    if kind == "nb":
        theta = network.module.px_r.detach().double().exp().numpy()[genes]
        expected += gammaln(theta) - gammaln(values + theta)
    found = network.constants(counts, None, None)
    np.testing.assert_allclose(found, [expected[:3].sum(), 0, expected[3:].sum()], rtol=1e-5, atol=1e-3)


def test_training_leads_where_that_of_scvi_tools_does(grown, monkeypatch):
    """Twenty steps of its optimiser, the same cells and noise: the values that are free are the same, and no other has moved."""
    surgery = grown("SCVI", {"categorical_covariate_keys": ["chemistry"]}, {"encode_covariates": True, "gene_likelihood": "nb"})
    module, theirs = surgery.model.module, by_scvi_tools(surgery).model
    start = {name: values.clone() for name, values in module.state_dict().items()}
    of = trainer(surgery)
    noise = Noise()
    of.network.noise = noise
    steps = [np.random.default_rng(number).permutation(len(surgery.cells))[:32] for number in range(20)]
    optimizer = torch.optim.Adam(of.network.learned.leaves, lr=0.01, eps=0.01)
    for places in steps:
        optimizer.zero_grad()
        of.losses(places).loss.backward()
        optimizer.step()
    of.network.learned.put_back()
    found = {name: values.clone() for name, values in module.state_dict().items()}

    module = theirs.module
    noise.restart()
    monkeypatch.setattr("torch.distributions.normal._standard_normal", noise)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01, eps=0.01)
    for places in steps:
        optimizer.zero_grad()
        _, _, output = module(tensors_of(theirs, places), loss_kwargs={"kl_weight": 0.0})
        output.loss.backward()
        optimizer.step()
    moved = 0
    for name, values in module.state_dict().items():
        close((found[name] - start[name]).double(), (values - start[name]).double(), 1e-3)
        free = surgery.growths[name].trainable
        assert torch.equal(found[name][~free], start[name][~free])
        moved += int((found[name] != start[name]).sum())
    assert 0 < moved <= surgery.parameters_trainable


SHORT = {"max_epochs": 4, "early_stopping": True, "check_val_every_n_epoch": 2}


@pytest.mark.parametrize("name", ["scvi_model", "scanvi_model"])
def test_both_engines_give_a_model_of_scvi_tools(name, request, pbmc, cells, tmp_path):
    import scvi

    query = small_cells(pbmc, seed=1)[:120].copy()
    query.obs["donor"] = "d1"
    model = request.getfixturevalue(name)
    labels = {"labels_keys": ["bulk_labels"]} if name == "scanvi_model" else {}
    by = {engine: map_cells(query, model, tmp_path / engine, train=SHORT, engine=engine, **labels) for engine in ("auto", "scvi")}
    assert (by["auto"].record["train"]["engine"], by["auto"].record["train"]["engine_reason"]) == ("refmap", None)
    assert by["auto"].record["train"]["stride"] == 1  # what was asked for
    assert (by["scvi"].record["train"]["engine"], by["scvi"].record["train"]["engine_reason"]) == ("scvi-tools", "as asked")
    ours, theirs = by["auto"].history, by["scvi"].history
    assert list(ours.index) == list(theirs.index) == [1, 2, 3, 4]
    assert set(ours) <= set(theirs) and {"train_loss", "elbo_train", "validation_loss", "elbo_validation"} <= set(ours)
    assert (ours.notna() == theirs[ours.columns].notna()).all(axis=None)
    for column in ("elbo_train", "kl_local_train", "reconstruction_loss_validation"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=0.15)
    kind = scvi.model.SCANVI if name == "scanvi_model" else scvi.model.SCVI
    cells = cells.copy()
    loaded = kind.load(str(by["auto"].model), adata=cells)
    assert loaded.is_trained
    assert list(loaded.history) == list(ours)
    np.testing.assert_allclose(
        loaded.get_latent_representation(), kind.load(str(model), adata=cells).get_latent_representation(), atol=2e-6
    )


@pytest.mark.parametrize("free", [False, True])
def test_the_same_seed_trains_the_same(free, grown):
    left = []
    for _time in range(2):
        surgery = grown("SCVI", {}, {"encode_covariates": True}, dropout=True)
        Surgery.seed(3)
        trainer(surgery, free, max_epochs=2).run(lambda line: None)
        left.append(surgery.embed())
    np.testing.assert_array_equal(*left)


def test_twenty_epochs_lead_where_a_hundred_of_scvi_tools_do(grown):
    """By the ELBO of all cells, of the same noise each time, and by where the cells lie: about as near as another seed leads."""
    settings = {"max_epochs": 100, "early_stopping": False, "check_val_every_n_epoch": None}
    elbos, latents, trained = {}, {}, {}
    ways = {"start": None, "twenty": ("auto", True, 0), "hundred": ("scvi", False, 0), "another": ("scvi", False, 1)}
    for name, way in ways.items():
        surgery = grown("SCVI", {}, {"encode_covariates": True, "gene_likelihood": "nb"})
        if way is not None:
            engine, free, seed = way
            done = surgery if engine == "auto" else by_scvi_tools(surgery)
            surgery = done if engine == "auto" else surgery.again("auto")
            Surgery.seed(seed)
            _history, trained[name] = done.train(settings | {"free": free}, lambda line: None)
            surgery.model.module.load_state_dict(done.model.module.state_dict())
        of = trainer(surgery, free=True)
        elbos[name] = of._validate(np.arange(len(of.cells))).figures("validation")["elbo_validation"]
        latents[name] = surgery.embed()
    assert trained["hundred"]["epochs"] == 100 and "stride" not in trained["hundred"]
    assert trained["twenty"] | {"seconds": 0} == {
        **{"epochs": 20, "max_epochs": 20, "stopped_early": False, "seconds": 0},
        **{"engine": "refmap", "engine_reason": None, "stride": 5},
    }
    assert elbos["start"] - elbos["twenty"] == pytest.approx(elbos["start"] - elbos["hundred"], rel=0.05)
    gone, apart, by_seed = (np.abs(latents[name] - latents["hundred"]).mean() for name in ("start", "twenty", "another"))
    assert apart < 1.5 * by_seed < 0.2 * gone


@pytest.mark.parametrize(
    ("name", "n_cells"),
    [
        ("SCVI of poisson", 1),
        ("covariates, injected", 5),
        ("embedded batches", 90),
        ("inferred sizes", 90),
        ("SCANVI", 1),
        ("SCANVI, linear classifier", 90),
    ],
)
def test_any_query_is_trained_in_strides(name, n_cells, grown):
    kind, setup, settings = MODELS[name]
    surgery = grown(kind, setup, settings, labelled=kind == "SCANVI", n_cells=n_cells)
    before = surgery.reference_sha256()
    history, trained = surgery.train({"max_epochs": 25, "early_stopping": True, "free": True}, lambda line: None)
    assert (trained["stride"], trained["max_epochs"]) == (5, 5)
    assert list(history.index) == [1, 2, 3, 4, 5][: trained["epochs"]]
    assert ("elbo_validation" in history) == (n_cells > 5)
    assert history.notna().all(axis=None) and np.isfinite(surgery.embed()).all()
    assert surgery.frozen_sha256() == before


def test_training_in_strides_ends_where_the_curve_is_flat():
    stopping, figures = Stopping("elbo_validation", 2, 0.0, min_share=1e-4), (2000, 1000, 1001, 999.8, 999.75, 999.72)
    assert [stopping.stops({"elbo_validation": figure}) for figure in figures] == [False] * 5 + [True]


BEYOND = {
    "normal": ({"gene_likelihood": "normal"}, {}, "gene_likelihood 'normal'"),
    "plan": ({}, {"plan_kwargs": {"reduce_lr_on_plateau": True}}, "plan_kwargs.reduce_lr_on_plateau"),
    "arguments": ({}, {"n_samples_per_label": 3, "accelerator": "cpu"}, "accelerator, n_samples_per_label"),
    "monitor": ({}, {"early_stopping_monitor": "kl_global_validation"}, "early_stopping_monitor 'kl_global_validation'"),
    "activation": (
        {"extra_decoder_kwargs": {"activation_fn": torch.nn.ELU}},
        {},
        "a model made with extra_decoder_kwargs",
    ),
    "embedding": (
        {"batch_representation": "embedding", "batch_embedding_kwargs": {"max_norm": 1.0}},
        {},
        "batch_embedding_kwargs.max_norm",
    ),
}


@pytest.mark.parametrize(("settings", "arguments", "reason"), BEYOND.values(), ids=BEYOND)
def test_what_it_does_not_know_is_left_to_scvi_tools(settings, arguments, reason, grown):
    surgery = grown("SCVI", {}, settings, train=ARGUMENTS | arguments)
    assert type(surgery) is Surgery and surgery.engine_reason == reason


def test_what_else_is_in_the_settings_of_a_training_is_refused(grown):
    with pytest.raises(ValueError, match="plan_kwargs.optimizer"):
        trainer(grown("SCVI", {}, {}), plan_kwargs={"optimizer": "AdamW"})


@pytest.mark.parametrize("kind", ["SCVI", "SCANVI"])
def test_what_is_not_told_of_a_training_is_as_in_scvi_tools(kind):
    import inspect

    import scvi
    from refmap.families.scvi.engine.limits import ARGUMENTS_OF, PLAN_OF

    of = getattr(scvi.model, kind)

    def defaults(*functions) -> dict:
        found = {}
        for function in functions:
            found |= {name: argument.default for name, argument in inspect.signature(function).parameters.items()}
        return found

    told = defaults(scvi.train.Trainer, of.train)
    assert {name: told[name] for name in ARGUMENTS_OF[kind]} == ARGUMENTS_OF[kind] | {"max_epochs": None}
    told = defaults(scvi.train.TrainingPlan, of._training_plan_cls)
    assert {name: told[name] for name in PLAN_OF[kind]} == PLAN_OF[kind]


@pytest.mark.parametrize(
    "kwargs", [{"n_epochs_kl_warmup": 7}, {"n_epochs_kl_warmup": None, "n_steps_kl_warmup": 50}, {"min_kl_weight": 0.2}]
)
def test_the_weight_of_the_divergence_is_that_of_scvi_tools(kwargs):
    from refmap.families.scvi.engine.fitting import _kl_weight
    from refmap.families.scvi.engine.limits import PLAN
    from scvi.train._trainingplans import _compute_kl_weight

    plan = PLAN | kwargs
    names = ("n_epochs_kl_warmup", "n_steps_kl_warmup", "max_kl_weight", "min_kl_weight")
    for epoch, step in itertools.product((0, 3, 6, 7, 399, 400, 500), (0, 13, 49, 50, 1000)):
        assert _kl_weight(plan, epoch, step) == pytest.approx(_compute_kl_weight(epoch, step, *(plan[name] for name in names)))


@pytest.mark.parametrize("kind", ["SCVI", "SCANVI"])
@pytest.mark.parametrize("train_size", [None, 0.8, 1.0])
@pytest.mark.parametrize("n_cells", [29, 88, 90])
def test_cells_are_split_as_by_scvi_tools(kind, train_size, n_cells, grown):
    import scvi
    from refmap.families.scvi.engine.splitting import split

    surgery = grown(kind, {}, {}, labelled=True, n_cells=n_cells)
    theirs = surgery.again("scvi").model
    scvi.settings.seed = 5
    splitter = theirs._data_splitter_cls(theirs.adata_manager, train_size=train_size, batch_size=13)
    splitter.setup()
    found = split(surgery.model.data, train_size, 13, 5)
    for places, expected in zip(vars(found).values(), (splitter.train_idx, splitter.val_idx, splitter.test_idx), strict=True):
        np.testing.assert_array_equal(places, expected)


def test_another_class_is_left_to_scvi_tools(totalvi_model, query, tmp_path):
    query = query.copy()
    query.obs["donor"] = query.obs["batch"]
    mapped = map_cells(query, totalvi_model, tmp_path / "m", train=SHORT, protein_key="protein_expression")
    assert (mapped.record["train"]["engine"], mapped.record["train"]["engine_reason"]) == ("scvi-tools", "a TOTALVI")
