"""The examples at the end of each command's --help. Tests run them."""

LLAMITA = """Examples:
  llamita train
  llamita generate
  llamita train --help"""

TRAIN = """The groups model, data, optimizer, training and run are the tables of a TOML file.
Names and values of other trainers work, too: --n_embd, --lr, --dtype=float32.
Whole numbers may be written 1e4, 10k or 1_000. docs/configuration.md has more.

Examples:
  llamita train
  llamita train --preset tinystories-10m
  llamita train --data my.txt --epochs 10
  llamita train --data my.txt --tokenizer char --num_layers 6 --max_steps 5k
  llamita train --data my_folder --preset tinystories-15m --batch_size 32
  llamita train --config my.toml --learning_rate 1e-3"""

ABLATE = """Examples:
  llamita ablate
  llamita ablate --variants no-norm,post-norm --seeds 3 --data my.txt
  llamita ablate --config base.toml --vary learning_rate=3e-4,1e-3 --vary mlp=swiglu,gelu
  llamita ablate --ladder gpt2-to-llama"""

PREPARE = """Examples:
  llamita prepare --data my.txt --vocab_size 10k
  llamita prepare --data tinystories --max_documents 10k
  llamita prepare --data a.txt b.jsonl --output_dir data/mine"""

EVAL = """Examples:
  llamita eval
  llamita eval runs/mine --plot
  llamita eval runs/mine --generate "Once upon a time" --sample_count 8"""

GENERATE = """Examples:
  llamita generate
  llamita generate "Once upon a time" --temperature 0.8 --top_p 0.9
  llamita generate runs/mine "Once upon a time"
  llamita generate runs/mine/step_00000500 --prompt "Once"
  llamita generate "Once upon a time" --num_samples 3 --stop "." --min_p 0.05
  llamita generate runs/mine --prompts_file prompts.txt --json --logprobs 2
  echo "Once upon a time" | llamita generate runs/mine"""

REPORT = """Examples:
  llamita report
  llamita report runs/first runs/second --output comparison.html"""

PRESETS = """Examples:
  llamita presets
  llamita train --preset tinystories-15m --data my.txt"""

SCALING = """Examples:
  llamita scaling
  llamita scaling --data my.txt --widths 64,96,128 --budgets 1e12,2e12,4e12 --repeat 2,4,8
  llamita scaling --predict 1e18"""

TOKENIZER = """Examples:
  llamita tokenizer train --data my.txt --vocab_size 10k --output_dir my_tokenizer
  llamita tokenizer encode "Once upon a time" --tokenizer my_tokenizer
  llamita tokenizer decode 33 45 --tokenizer my_tokenizer"""
