/*
 * vdpa-soft: writing JSON
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VDPA_SOFT_JSON_H
#define VDPA_SOFT_JSON_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/** vs_json_string() - append @text, of any bytes, as a JSON string */
static inline void vs_json_string(GString *out, const char *text)
{
    const char *p = text;

    g_string_append_c(out, '"');
    while (*p) {
        gunichar c = g_utf8_get_char_validated(p, -1);

        if (c == (gunichar)-1 || c == (gunichar)-2) {
            /* not UTF-8: keep the byte's value visible */
            g_string_append_printf(out, "\\u00%02x", (unsigned char)*p++);
            continue;
        }
        if (c == '"' || c == '\\') {
            g_string_append_c(out, '\\');
        }
        if (c < 0x20) {
            g_string_append_printf(out, "\\u%04x", (unsigned)c);
        } else {
            g_string_append_unichar(out, c);
        }
        p = g_utf8_next_char(p);
    }
    g_string_append_c(out, '"');
}

/** vs_json_key() - begin a member; a comma is put where one is needed */
static inline void vs_json_key(GString *out, const char *key)
{
    if (out->len && out->str[out->len - 1] != '{') {
        g_string_append_c(out, ',');
    }
    g_string_append_printf(out, "\"%s\":", key);
}

static inline void vs_json_u64(GString *out, const char *key, uint64_t value)
{
    vs_json_key(out, key);
    g_string_append_printf(out, "%" G_GUINT64_FORMAT, (guint64)value);
}

static inline void vs_json_bool(GString *out, const char *key, bool value)
{
    vs_json_key(out, key);
    g_string_append(out, value ? "true" : "false");
}

static inline void vs_json_text(GString *out, const char *key,
                                const char *value)
{
    vs_json_key(out, key);
    vs_json_string(out, value);
}

/** vs_json_hex() - append @size bytes as a string of hexadecimal digits */
static inline void vs_json_hex(GString *out, const void *data, size_t size)
{
    static const char digit[] = "0123456789abcdef";
    const uint8_t *byte = data;
    size_t i;

    g_string_append_c(out, '"');
    for (i = 0; i < size; i++) {
        g_string_append_c(out, digit[byte[i] >> 4]);
        g_string_append_c(out, digit[byte[i] & 15]);
    }
    g_string_append_c(out, '"');
}

#endif
