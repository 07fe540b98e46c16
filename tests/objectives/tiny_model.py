"""A tiny random Llama with a word-level tokenizer, made in milliseconds."""

from pathlib import Path

import torch

WORDS = (
    ["<pad>", "<bos>", "<eos>", "<user>", "<bot>", "<think>", "</think>", "####"]
    + list("+-=.?:")
    + [str(number) for number in range(20)]
    + ["มี", "ซื้อ", "ขาย", "คำตอบ", "คือ", "ลูก", "ครับ", "has", "buys", "sells", "the", "answer"]
    + [f"w{number}" for number in range(125)]
)
TEMPLATE = (
    "<bos> {% for m in messages %}{% if m.role == 'user' %}<user> {{ m.content }} "
    "{% elif m.role == 'assistant' %}<bot> {{ m.content }} <eos> "
    "{% else %}{{ raise_exception('no ' + m.role + ' role here') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


def save_model(
    path: Path,
    *,
    tied: bool = True,
    seed: int = 0,
    template: str | None = TEMPLATE,
    adds_bos: bool = False,
    positions: int = 128,
    layers: int = 4,
    head_dim: int | None = None,
) -> Path:
    """A Llama of hidden 96, 171 words and 386k parameters in 4 layers, in Hugging Face layout."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=96,
        num_hidden_layers=layers,
        intermediate_size=192,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    ids = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        words.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    return path
