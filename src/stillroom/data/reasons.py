"""Why a pair cannot be used: the closed vocabulary that faults are counted by, each with what to do about it."""

from __future__ import annotations

CAPTION_EMPTY = "caption_empty"
CAPTION_MISSING = "caption_missing"
CAPTION_NOT_UTF8 = "caption_not_utf8"
CAPTION_TOO_LARGE = "caption_too_large"
DUPLICATE_KEY = "duplicate_key"
FEATURES_NOT_FINITE = "features_not_finite"
IMAGE_EMPTY = "image_empty"
IMAGE_MISSING = "image_missing"
IMAGE_TOO_LARGE = "image_too_large"
IMAGE_TRUNCATED = "image_truncated"
IMAGE_UNREADABLE = "image_unreadable"
METADATA_UNREADABLE = "metadata_unreadable"
ROW_MALFORMED = "row_malformed"
SHARD_TRUNCATED = "shard_truncated"
SHARD_UNREADABLE = "shard_unreadable"

ADVICE: dict[str, str] = {
    CAPTION_EMPTY: "the caption is empty or white space: leave the pair out, or find its text",
    CAPTION_MISSING: "the picture has no caption (.txt, or 'caption' in .json): leave it out, or add one",
    CAPTION_NOT_UTF8: "the caption is not UTF-8: convert the file's encoding",
    CAPTION_TOO_LARGE: "the caption or JSON member is over the size limit: not a caption",
    DUPLICATE_KEY: "the key occurs twice in one shard: the first is used; give each pair its own key",
    FEATURES_NOT_FINITE: "the teacher gives no finite features for the picture: set precision=fp32, or take another",
    IMAGE_EMPTY: "the picture has no bytes: download it again",
    IMAGE_MISSING: "no picture for this caption or row: check the path column, or download it again",
    IMAGE_TOO_LARGE: "the picture is over the size limit: scale it down (img2dataset --resize_mode)",
    IMAGE_TRUNCATED: "the picture ends early or is damaged: download it again",
    IMAGE_UNREADABLE: "not a picture in a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)",
    METADATA_UNREADABLE: "the .json beside the picture is not valid JSON: the pair is left out",
    ROW_MALFORMED: "a row not in UTF-8, without a key, or unlike the header in length: quote fields with the separator",
    SHARD_TRUNCATED: "the tar ends early or is damaged: copy or download it again; what stands before that is used",
    SHARD_UNREADABLE: "the shard cannot be opened or read: check the file and its permissions, or download it again",
}
