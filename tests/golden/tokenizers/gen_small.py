#!/usr/bin/env python3
"""Small tokenizers with every part that the big ones do not use, and golden cases for them, made with Hugging Face's tokenizers 0.23.3.
usage: gen_small.py [TINY] in this folder; TINY = the folder of tiny checkpoints (their golden texts are added). Nobody needs to run it."""
import json, os, sys
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = ["The quick brown fox jumps over the lazy dog, doesn't it?", "int main(void) { return 0; } /* 12345 */", "Hello! How are you? Fine, fine.",
        "the other one is not there, and that the answer is in the question", "Ünïcode naïve café, STRASSE straße", "a-b c--d e---f 10 200 3000"] * 3
EXTRA = ["", " ", "  lead and trail  ", "<x>", "a<x>b", "a <x> b", "<X>", "foo<y>bar", "foo <y> bar", "<y>", "_<y>", "<Lower>", "<lower> a", "<LOWER>z",
         "word", "sword", "word!", "a word b", "<l>", "a  <l>  b", "a  <r>  b", "<l><r>", "  <r>  <l>  ", "<sp>", "a<sp>b<sp>", "<sp", "p>", "ﬁ ½ ① Å", "e\u0301 \u0301",
         "İ ẞ Σ", "a\u00a0b\u3000c", "----", "a--b--", "--a", "1a22b333", "٣٤ Ⅷ ½", "\t tab", "line\nbreak\n\n", "▁a ▁▁b", "你好 world", "😀 x", "a,b,,c", ", ,",
         "end<sp> mid <x><x>", "\u200d<y>", "é<y>", "1<y>", "STRASSE"]


def train(norm, pre, dec, alphabet=(), post=None, added=(), size=300, **model):
    t = Tokenizer(models.BPE(**model))
    if norm:
        t.normalizer = norm
    if pre:
        t.pre_tokenizer = pre
    special = [model["unk_token"]] if "unk_token" in model else []
    t.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=list(alphabet), show_progress=False))
    for a in added:
        (t.add_special_tokens if a.special else t.add_tokens)([a])
    t.decoder = dec
    if post:
        t.post_processor = post(t)
    return t


ADDED = [AddedToken("<sp>", special=True, normalized=False), AddedToken("<x>", normalized=False), AddedToken("<y>", single_word=True, normalized=False),
         AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False, special=True), AddedToken("<lower>", normalized=True),
         AddedToken("word", single_word=True, normalized=True), AddedToken("<|ctl|>", normalized=False)]
split = pre_tokenizers.Split
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
bos = lambda t: processors.TemplateProcessing(single="<sp> $A <r>:1", special_tokens=[(x, t.token_to_id(x)) for x in ("<sp>", "<r>")])
small = {
    "odd": train(normalizers.Sequence([normalizers.Strip(True, False), normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex("-{2,}"), "~"), normalizers.Replace("q", "kw")]),
                 pre_tokenizers.Sequence([split(Regex(r"\s+"), "merged_with_next"), split(",", "merged_with_previous"), pre_tokenizers.Digits(False), split(Regex("[a-f]+"), "contiguous"),
                                          pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)]), decoders.ByteLevel(), ALPHABET, bos, ADDED),
    "merged": train(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
                    pre_tokenizers.Sequence([split(Regex("[a-m]"), "merged_with_previous", invert=True), split(Regex("e|o"), "merged_with_next"), split(Regex("[n-z ]"), "removed", invert=True),
                                             pre_tokenizers.Punctuation("merged_with_next"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
                    decoders.ByteLevel(), ALPHABET, None, ADDED),
    "meta": train(normalizers.NFKD(), pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first")]), decoders.Metaspace(prepend_scheme="first"), "▁<>", bos, ADDED,
                  unk_token="<unk>", fuse_unk=True),
    "always": train(None, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=False)]),
                    decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 0, 0), decoders.Fuse(), decoders.Strip(" ", 1, 0)]), "▁<>", None, ADDED, unk_token="<unk>"),
    "words": train(normalizers.Replace("t", "T"), pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]), decoders.Fuse(), "<>", None, ADDED, unk_token="<unk>"),
}
here = os.path.dirname(os.path.abspath(__file__))
texts = EXTRA + [json.loads(x)["text"] for x in open(os.path.join(here, "smollm2.jsonl")).readlines()[1:] if '"cat":"long"' not in x]
for name, t in small.items():
    t.save(os.path.join(here, name + ".tokenizer.json"))
for name in list(small) + ["tiny-bpe", "tiny-spm"]:
    t = Tokenizer.from_file(os.path.join(here, name + ".tokenizer.json"))
    with open(os.path.join(here, name + ".jsonl"), "w") as f:
        for x in texts:
            o = {"text": x}
            t.encode_special_tokens = False
            o["ids"] = t.encode(x, add_special_tokens=False).ids
            o["ids_with_bos"] = t.encode(x).ids
            t.encode_special_tokens = True
            o["ids_plain"] = t.encode(x, add_special_tokens=False).ids
            o["decode"] = t.decode(o["ids"], skip_special_tokens=False)
            o["decode_skip_special"] = t.decode(o["ids"], skip_special_tokens=True)
            f.write(json.dumps({k: v for k, v in o.items() if k in ("text", "ids", "decode") or v != o["ids" if k[0] == "i" else "decode"]}, separators=(",", ":")) + "\n")
        tiny = {"tiny-bpe": "llama", "tiny-spm": "llama-sharded"}.get(name)
        if tiny and len(sys.argv) > 1:
            for c in json.load(open(os.path.join(sys.argv[1], tiny, "golden.json")))["cases"]:
                if "text" in c:
                    f.write(json.dumps({"text": c["text"], "ids": c["input_ids"]}, separators=(",", ":")) + "\n")
                    f.write(json.dumps({"ids": c["greedy"], "decode": c["greedy_text"]}, separators=(",", ":")) + "\n")
