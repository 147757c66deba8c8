"""One fine-tuning run as a plain script does it: TRL's SFTTrainer on a JSON Lines file, the adapter saved at the end.

python train.py --method lora --model FOLDER --data train.jsonl --output adapter
"""

import argparse

import torch
from datasets import load_dataset
from peft import LoraConfig, PrefixTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed
from trl import SFTConfig, SFTTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--method", choices=["lora", "qlora", "dora", "prefix"], required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--output", required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--batch-size", type=int, required=True)
parser.add_argument("--max-length", type=int, required=True)
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--schedule", required=True)
parser.add_argument("--warmup", type=float, required=True)
parser.add_argument("--precision", choices=["bf16", "fp32"], required=True)
parser.add_argument("--r", type=int, default=16)
parser.add_argument("--lora-alpha", type=float, default=32)
parser.add_argument("--num-virtual-tokens", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

set_seed(args.seed)
dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
quantization = None
if args.method == "qlora":
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, quantization_config=quantization)
for module in model.modules():  # bitsandbytes 0.50 repacks 4-bit weights on some processors, and they lose gradients
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
tokenizer = AutoTokenizer.from_pretrained(args.model)
if args.method == "qlora":  # lm_eval 0.4.13 cannot quantize with transformers 5, so it reads what is quantized already
    model.save_pretrained(f"{args.output}/base")
    tokenizer.save_pretrained(f"{args.output}/base")

if args.method == "prefix":
    peft_config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=args.num_virtual_tokens)
else:
    peft_config = LoraConfig(
        task_type="CAUSAL_LM",
        r=args.r,
        lora_alpha=args.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        use_dora=args.method == "dora",
    )

trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=args.output,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.lr,
        lr_scheduler_type=args.schedule,
        warmup_steps=args.warmup,
        max_length=args.max_length,
        bf16=args.precision == "bf16",
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        seed=args.seed,
    ),
    train_dataset=load_dataset("json", data_files=args.data, split="train"),
    processing_class=tokenizer,
    peft_config=peft_config,
)
trainer.train()
trainer.save_model(args.output)
