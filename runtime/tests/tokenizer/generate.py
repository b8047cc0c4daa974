"""Makes tokenizer.json and cases.json, and llama3.json and llama3_cases.json, beside this file with Hugging Face's
`tokenizers` (0.23).

    pip install tokenizers==0.23.*
    python generate.py

The tokenizers are small byte-level BPEs of Qwen2's and of Llama 3's kind, learned from the text below.
"""
import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN = ["<think>", "</think>", "<tool_call>", "<|木|>"]
TEXT = [
    "A tree that is small because it is cut with care is called a bonsai. The tree isn't young; it's old.",
    "She said: \"We'll water it, they've watered it, and I'd have watered it too.\" Then he left the garden.",
    "for (int i = 0; i < 10; i++) {\n    printf(\"%d\\n\", i);\n}\n\n",
    "def add(a, b):\n    return a + b\n\n\nclass Tree:\n    def __init__(self, height):\n        self.height = height\n",
    "Der Baum ist klein, weil er mit Sorgfalt geschnitten wird. Größe, Übung, Straße, schön.",
    "L'arbre est petit parce qu'il est taillé avec soin. Où est la forêt ? Là-bas, près de l'école.",
    "盆栽は小さな木です。木は森にあります。", "小さな木は大きな森より美しい。", "나무는 작고 아름답습니다.",
    "Дерево маленькое, потому что его стригут. Лес большой.", "Το δέντρο είναι μικρό.", "🌳🌲🌱 trees 🌳🌳",
    "The weights are -1, 0 and +1; every 128 of them share one scale of 16 bits: 2.125 bits per weight.",
]
CASES = [
    "", " ", "  ", "   a", "a   ", "a  b", "\n", "\r\n", "\n\n\n", " \n ", "\t\ttab", "a\n\n  b\n", "end.\n", "!!!\n\n!",
    "The tree is small.", "the Tree ISN'T small, it'S old; WE'LL see", "don't", "'s", "''ll'", "I'd've", "a_b-c.d/e\\f",
    "12345", "3.14159e-10", "x1y22z333", "½ ² Ⅷ ٣", "1 000 000", "under_score camelCase", "printf(\"%d\\n\");\n",
    "é", "e\u0301", "Å Å A\u030a", "ﬁ ligature", "\u1e9b\u0323", "가 \u1100\u1161", "\u0958", "\u0344",
    "日本語の木", "나무", "Größe", "forêt", "العربية", "עברית", "ไทย", "हिन्दी", "🌳", "👩‍👩‍👧", "🇫🇷", "a🌳b", "🌳 🌳",
    "\u00a0nbsp\u00a0", "\u3000wide", "zero\u200bwidth", "\ufeffbom", "\u0000\u0001\x7f", "\u2028line", "\u0085next",
    "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "<|endoftext|><|endoftext|>", " <|im_end|> ", "<|im_end", "|im_end|>",
    "<think>\nwhy\n</think>\n\nso", "<<think>>", "<tool_call>{}</tool_call>", "<|im_start|><think>e\u0301</think>",
    "x<|endoftext|>e\u0301<|im_end|>\u0301", "<|木|>?", "<|u\u0308|>", "ĠĊ Ā", "\ue000\U0010ffff", "a" * 70, "ab " * 20,
]


def learned(words, normalizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def qwen2():
    tokenizer = learned(QWEN2, normalizers.NFC())
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN])
    return tokenizer


def llama3():
    """Its last hundred tokens come about by no merge: only a word that is one of them becomes it."""
    tokenizer = learned(LLAMA3, None)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"][:-100]]
    tokenizer.model = models.BPE(vocab=model["vocab"], merges=merges, ignore_merges=True)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    bos = SPECIAL[1]
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def case(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True)}


for name, cases_name, tokenizer in [("tokenizer", "cases", qwen2()), ("llama3", "llama3_cases", llama3())]:
    tokenizer.save(str(HERE / f"{name}.json"), pretty=False)
    cases = {"produced_with": f"tokenizers {tokenizers.__version__}", "cases": [case(tokenizer, text) for text in CASES]}
    (HERE / f"{cases_name}.json").write_text(json.dumps(cases, ensure_ascii=True, indent=0) + "\n", encoding="utf-8")
