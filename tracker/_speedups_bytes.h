/* Bytes in, bytes out, for _speedups.c: a plain click's head, its query, keyed BLAKE2b, base32hex. No Python in here.
 *
 * Every read is bounded by `end`, every write by what its caller has measured; nothing is allocated.
 */
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

enum { TOKEN = 1, SLUG = 2, TRAILING = 4, QUERY = 8, VALUE = 16, HOST = 32, HARMLESS = 64, UNRESERVED = 128, VERBATIM = 256 };

static unsigned short kind[256];

static void mark(const char *characters, unsigned short bits) {
    for (; *characters; characters++) kind[(unsigned char)*characters] |= bits;
}

static void mark_kinds(void) {
    const char *alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    mark(alphanumeric, TOKEN | SLUG | HOST | UNRESERVED);
    mark("!#$%&'*+.^_`|~-", TOKEN);
    mark("_-", SLUG | UNRESERVED);
    mark(".~", UNRESERVED);
    mark("/.,;:!)']>", TRAILING);
    mark("._:[]-", HOST);
    mark("ABDFGIJLNOQVWYZabdfgijlnoqvwyz", HARMLESS);      /* no header whose name begins so needs a judgement */
    for (int c = 0x21; c <= 0x7e; c++) if (c != '#') kind[c] |= QUERY;
    for (int c = 0x21; c <= 0x7e; c++) if (!strchr("&=%+\"\\", c)) kind[c] |= VERBATIM;      /* in a query: stands for itself */
    for (int c = 0; c < 256; c++) if (c == '\t' || (c >= 0x20 && c != 0x7f)) kind[c] |= VALUE;
}

/* ── A plain click ──────────────────────────────────────────────────────────────────────────────────────────────────── */

#define CLICK_HEAD_LIMIT 8192
#define HEADERS_MAX 100

typedef struct { const char *at; ssize_t length; } Span;

enum { USER_AGENT, A_HOST, REFERER, FORWARDED, PURPOSE, CONNECTION, KNOWN, OTHER, REFUSED };

#define NAME(text, what) {text, sizeof(text) - 1, what}
static const struct { const char *name; size_t length; int what; } NAMES[] = {
    NAME("user-agent", USER_AGENT), NAME("host", A_HOST), NAME("referer", REFERER), NAME("x-forwarded-for", FORWARDED),
    NAME("sec-purpose", PURPOSE), NAME("purpose", PURPOSE), NAME("x-moz", PURPOSE), NAME("connection", CONNECTION),
    NAME("proxy-connection", REFUSED), NAME("content-length", REFUSED), NAME("content-encoding", REFUSED),
    NAME("content-type", REFUSED), NAME("content-location", REFUSED), NAME("content-range", REFUSED),
    NAME("transfer-encoding", REFUSED), NAME("te", REFUSED), NAME("trailer", REFUSED), NAME("upgrade", REFUSED),
    NAME("expect", REFUSED), NAME("keep-alive", REFUSED), NAME("etag", REFUSED), NAME("max-forwards", REFUSED),
    NAME("server", REFUSED), NAME("sec-websocket-key1", REFUSED),
};

/* Whether `text` is this word of lower-case ASCII, in whatever case. Not strncasecmp: to a Turkish locale I is no i. */
static int is_word(const char *text, const char *word, size_t length) {
    for (size_t i = 0; i < length; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z' ? text[i] | 0x20 : text[i]) != word[i]) return 0;
    return 1;
}

static int header_of(const char *name, ssize_t length) {
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (NAMES[i].length == (size_t)length && is_word(name, NAMES[i].name, (size_t)length)) return NAMES[i].what;
    return OTHER;
}

/* Where the value at `p` ends. Eight bytes at a time while none of them is a control; the rest, which one ends it included, byte by
 * byte. A browser's headers in a third of the time. */
static const char *end_of_value(const char *p, const char *end) {
    const uint64_t each = 0x0101010101010101;
    for (; end - p >= 8; p += 8) {
        uint64_t eight, dels;
        memcpy(&eight, p, 8);
        dels = eight ^ each * 0x7f;
        if (((eight - each * 0x20) & ~eight & each << 7) | ((dels - each) & ~dels & each << 7)) break;
    }
    while (p < end && kind[(unsigned char)*p] & VALUE) p++;
    return p;
}

static int is_blank(char c) { return c == ' ' || c == '\t'; }

static int says_prefetch(Span span) {
    static const char *words[] = {"prefetch", "prerender", "preview"};
    for (int w = 0; w < 3; w++) {
        ssize_t length = (ssize_t)strlen(words[w]);
        for (ssize_t i = 0; i + length <= span.length; i++)
            if (is_word(span.at + i, words[w], (size_t)length)) return 1;
    }
    return 0;
}

/* Reads the headers from `p` on; returns where they end, NULL when they are not a plain click's, or not whole. */
static const char *read_headers(const char *p, const char *end, Span said[KNOWN]) {
    int seen = 0, count = 0;
    for (;;) {
        if (end - p >= 2 && p[0] == '\r' && p[1] == '\n') break;
        if (++count > HEADERS_MAX) return NULL;
        const char *name = p;
        while (p < end && kind[(unsigned char)*p] & TOKEN) p++;
        if (p == name || p == end || *p != ':') return NULL;
        int what = kind[(unsigned char)*name] & HARMLESS ? OTHER : header_of(name, p - name);
        p++;
        if (what == REFUSED) return NULL;
        if (what != OTHER) {
            if (seen & 1 << what) return NULL;
            seen |= 1 << what;
            while (p < end && is_blank(*p)) p++;
        }
        const char *value = p;
        p = end_of_value(p, end);
        if (end - p < 2 || p[0] != '\r' || p[1] != '\n') return NULL;
        if (what != OTHER) {
            Span span = {value, p - value};
            if (what != FORWARDED) while (span.length && is_blank(span.at[span.length - 1])) span.length--;
            if (what == CONNECTION && (span.length != 10 || !is_word(span.at, "keep-alive", 10))) return NULL;
            if (what == A_HOST) {
                if (span.length == 0) return NULL;
                for (ssize_t i = 0; i < span.length; i++) if (!(kind[(unsigned char)span.at[i]] & HOST)) return NULL;
            }
            said[what] = span;
        }
        p += 2;
    }
    return seen & 1 << A_HOST ? p + 2 : NULL;
}

typedef struct { Span slug, query, said[KNOWN]; int head, prefetch; const char *after; } Click;

/* 1: the request at `p` is a plain click and whole. */
static int read_click(const char *p, const char *end, Click *click) {
    if (end - p > CLICK_HEAD_LIMIT) end = p + CLICK_HEAD_LIMIT;
    click->head = end - p >= 5 && memcmp(p, "HEAD ", 5) == 0;
    if (!click->head && !(end - p >= 4 && memcmp(p, "GET ", 4) == 0)) return 0;
    p += click->head ? 5 : 4;
    if (end - p < 3 || memcmp(p, "/c/", 3) != 0) return 0;
    p += 3;
    click->slug.at = p;
    while (p < end && kind[(unsigned char)*p] & SLUG) p++;
    click->slug.length = p - click->slug.at;
    if (click->slug.length < 1 || click->slug.length > 64) return 0;
    while (p < end && kind[(unsigned char)*p] & TRAILING) p++;
    click->query = (Span){"", 0};
    if (p < end && (*p == '?' || *p == '&')) {
        click->query.at = ++p;
        while (p < end && kind[(unsigned char)*p] & QUERY) p++;
        click->query.length = p - click->query.at;
    }
    if (end - p < 11 || memcmp(p, " HTTP/1.1\r\n", 11) != 0) return 0;
    for (int i = 0; i < KNOWN; i++) click->said[i] = (Span){"", 0};
    click->after = read_headers(p + 11, end, click->said);
    if (click->after == NULL) return 0;
    click->prefetch = says_prefetch(click->said[PURPOSE]);
    return 1;
}

/* ── A visitor's query ──────────────────────────────────────────────────────────────────────────────────────────────── */

#define LABELS 11
#define PARAMETERS_MAX 64
#define NAME_MAX_BYTES 64
#define VALUE_MAX_BYTES 1024
#define RAW_MAX_BYTES 8192

/* Place in sub1 … sub10, ext; -1 for any other name. */
static int label_of(Span name) {
    if (name.length == 3 && memcmp(name.at, "ext", 3) == 0) return 10;
    if (name.length < 4 || name.length > 5 || memcmp(name.at, "sub", 3) != 0) return -1;
    if (name.length == 5) return name.at[3] == '1' && name.at[4] == '0' ? 9 : -1;
    return name.at[3] >= '1' && name.at[3] <= '9' ? name.at[3] - '1' : -1;
}

static int hex_of(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int same(Span a, Span b) { return a.length == b.length && memcmp(a.at, b.at, (size_t)a.length) == 0; }

static void put_length(char **out, ssize_t length) {
    unsigned int n = (unsigned int)length;
    *(*out)++ = (char)(n >> 24); *(*out)++ = (char)(n >> 16); *(*out)++ = (char)(n >> 8); *(*out)++ = (char)n;
}

static void put(char **out, const char *from, ssize_t length) { memcpy(*out, from, (size_t)length); *out += length; }

typedef struct { Span labels[LABELS], names[PARAMETERS_MAX], values[PARAMETERS_MAX]; int rest; } Query;

/* Takes the query apart, unescaped into `room`. 0: there is something that only the twin should judge. */
static int read_query(const char *p, const char *end, char *room, Query *query) {
    memset(query->labels, 0, sizeof query->labels);
    query->rest = 0;
    for (int pairs = 1;; pairs++) {
        if (pairs > PARAMETERS_MAX) return 0;
        Span name = {room, 0}, value = {NULL, 0};
        int quoted = 0;      /* JSON would have to escape something, or it is no text of ASCII */
        for (; p < end && *p != '&'; p++) {
            if (kind[(unsigned char)*p] & VERBATIM) {
                *room++ = *p;
                continue;
            }
            if (*p == '=' && value.at == NULL) {
                name.length = room - name.at;
                value.at = room;
                continue;
            }
            char c = *p;
            if (c == '+') c = ' ';
            else if (c == '%' && end - p > 2 && hex_of(p[1]) >= 0 && hex_of(p[2]) >= 0) {
                c = (char)(hex_of(p[1]) << 4 | hex_of(p[2]));
                p += 2;
            }
            if (c == 0 || (unsigned char)c > 0x7f) return 0;
            if ((unsigned char)c < 0x20 || c == '"' || c == '\\') quoted = 1;
            *room++ = c;
        }
        if (value.at == NULL) { name.length = room - name.at; value.at = room; }
        value.length = room - value.at;
        if (name.length > NAME_MAX_BYTES || value.length > VALUE_MAX_BYTES) return 0;
        int label = label_of(name);
        if (label >= 0) {
            if (value.length && query->labels[label].length == 0) query->labels[label] = value;
        } else if (name.length) {
            if (quoted) return 0;
            for (int i = 0; i < query->rest; i++) if (same(query->names[i], name)) return 0;
            query->names[query->rest] = name;
            query->values[query->rest++] = value;
        }
        if (p == end) return 1;
        p++;
    }
}

/* A query's twelve columns, eleven labels and the jsonb of the rest: how many bytes they take, and the bytes. */
static ssize_t document_size(const Query *query) {
    ssize_t size = 2;                                      /* jsonb's version byte, then {"name":"value",…} */
    for (int i = 0; i < query->rest; i++) size += 6 + query->names[i].length + query->values[i].length;
    return query->rest ? size : 0;
}

static ssize_t columns_size(const Query *query) {
    ssize_t size = 4 * (LABELS + 1) + document_size(query);
    for (int i = 0; i < LABELS; i++) size += query->labels[i].length;
    return size;
}

static void put_columns(char **out, const Query *query) {
    for (int i = 0; i < LABELS; i++) {
        put_length(out, query->labels[i].length ? query->labels[i].length : -1);
        put(out, query->labels[i].length ? query->labels[i].at : "", query->labels[i].length);
    }
    put_length(out, query->rest ? document_size(query) : -1);
    if (query->rest) put(out, "\1", 1);
    for (int i = 0; i < query->rest; i++) {
        put(out, i ? ",\"" : "{\"", 2);
        put(out, query->names[i].at, query->names[i].length);
        put(out, "\":\"", 3);
        put(out, query->values[i].at, query->values[i].length);
        put(out, "\"", 1);
    }
    if (query->rest) put(out, "}", 1);
}

static Span value_of(const Query *query, Span name) {
    int label = label_of(name);
    if (label >= 0) return query->labels[label].length ? query->labels[label] : (Span){"", 0};
    for (int i = 0; i < query->rest; i++) if (same(query->names[i], name)) return query->values[i];
    return (Span){"", 0};
}

/* Every byte but letters, digits and -._~ as %XX: how many bytes that takes, and the bytes. */
static ssize_t encoded_size(Span value) {
    ssize_t size = value.length;
    for (ssize_t i = 0; i < value.length; i++) if (!(kind[(unsigned char)value.at[i]] & UNRESERVED)) size += 2;
    return size;
}

static void put_encoded(char **out, Span value) {
    for (ssize_t i = 0; i < value.length; i++) {
        unsigned char c = (unsigned char)value.at[i];
        if (kind[c] & UNRESERVED) { *(*out)++ = (char)c; continue; }
        *(*out)++ = '%';
        *(*out)++ = "0123456789ABCDEF"[c >> 4];
        *(*out)++ = "0123456789ABCDEF"[c & 15];
    }
}

/* ── Keyed BLAKE2b (RFC 7693) ───────────────────────────────────────────────────────────────────────────────────────── */

/* hashlib works through the key's block anew for each hash, and makes two objects; here it is done once. 0.3 µs against 0.9. */
typedef struct { uint64_t state[8]; int size; } Keyed;

static const uint64_t IV[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};
static const unsigned char SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint64_t rotated(uint64_t x, int by) { return x >> by | x << (64 - by); }

static inline uint64_t little_endian(const unsigned char *p) {      /* compilers make one load of it */
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24
        | (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

/* Macros, so that all of it is written out with the orders as constants: functions in a loop took three times as long. */
#define MIX(a, b, c, d, x, y) do { \
    a += b + (x); d = rotated(d ^ a, 32); c += d; b = rotated(b ^ c, 24); \
    a += b + (y); d = rotated(d ^ a, 16); c += d; b = rotated(b ^ c, 63); \
} while (0)

#define WORD(r, i) m[SIGMA[r][i]]
#define ROUND(r) do { \
    MIX(v[0], v[4], v[8], v[12], WORD(r, 0), WORD(r, 1)); MIX(v[1], v[5], v[9], v[13], WORD(r, 2), WORD(r, 3)); \
    MIX(v[2], v[6], v[10], v[14], WORD(r, 4), WORD(r, 5)); MIX(v[3], v[7], v[11], v[15], WORD(r, 6), WORD(r, 7)); \
    MIX(v[0], v[5], v[10], v[15], WORD(r, 8), WORD(r, 9)); MIX(v[1], v[6], v[11], v[12], WORD(r, 10), WORD(r, 11)); \
    MIX(v[2], v[7], v[8], v[13], WORD(r, 12), WORD(r, 13)); MIX(v[3], v[4], v[9], v[14], WORD(r, 14), WORD(r, 15)); \
} while (0)

/* Takes in the block of 128 bytes that ends after `count` bytes, the key's block included. */
static void compress(uint64_t state[8], const unsigned char block[128], uint64_t count, int last) {
    uint64_t v[16], m[16];
    for (int i = 0; i < 16; i++) m[i] = little_endian(block + 8 * i);
    for (int i = 0; i < 8; i++) { v[i] = state[i]; v[i + 8] = IV[i]; }
    v[12] ^= count;
    if (last) v[14] = ~v[14];
    ROUND(0); ROUND(1); ROUND(2); ROUND(3); ROUND(4); ROUND(5); ROUND(6); ROUND(7); ROUND(8); ROUND(9); ROUND(0); ROUND(1);
    for (int i = 0; i < 8; i++) state[i] ^= v[i] ^ v[i + 8];
}

/* `key` has 1 to 64 bytes; digests will have `size`. */
static void set_key(Keyed *keyed, Span key, int size) {
    unsigned char block[128] = {0};
    memcpy(block, key.at, (size_t)key.length);
    for (int i = 0; i < 8; i++) keyed->state[i] = IV[i];
    keyed->state[0] ^= 0x01010000u ^ (uint64_t)key.length << 8 ^ (uint64_t)size;
    keyed->size = size;
    compress(keyed->state, block, 128, 0);
}

/* Of at least one byte: of none, the key's block would have been the last. */
static void put_digest(char **out, const Keyed *keyed, Span message) {
    uint64_t state[8], count = 128;
    memcpy(state, keyed->state, sizeof state);
    for (;;) {
        unsigned char block[128] = {0};
        ssize_t taken = message.length < 128 ? message.length : 128;
        memcpy(block, message.at, (size_t)taken);
        count += (uint64_t)taken;
        message.at += taken;
        message.length -= taken;
        compress(state, block, count, message.length == 0);
        if (message.length == 0) break;
    }
    for (int i = 0; i < keyed->size; i++) *(*out)++ = (char)(state[i / 8] >> 8 * (i % 8));
}

/* ── A click id's characters ────────────────────────────────────────────────────────────────────────────────────────── */

static void put_spelled(char **out, const unsigned char in[20]) {
    for (int group = 0; group < 4; group++, in += 5) {
        uint64_t bits = (uint64_t)in[0] << 32 | (uint64_t)in[1] << 24 | (uint64_t)in[2] << 16 | (uint64_t)in[3] << 8 | in[4];
        for (int shift = 35; shift >= 0; shift -= 5) *(*out)++ = "0123456789abcdefghijklmnopqrstuv"[bits >> shift & 31];
    }
}

/* ── Counting ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* How often each key came, in the order they came first. A key is a number and the bytes of `span`, which are not copied.
 * `slots`: zeros, a power of two, more than there will be keys, so that a free one is always found. */
typedef struct Slot { Span span; uint64_t number; long times; struct Slot *next; } Slot;
typedef struct { Slot *slots, *first, *last; size_t mask; } Tally;

static void count_one(Tally *tally, uint64_t number, Span span) {
    uint64_t hash = 0xcbf29ce484222325 ^ number;      /* FNV-1a, eight bytes at a time; at worst 500 rows collide */
    ssize_t i = 0;
    for (; span.length - i >= 8; i += 8) hash = (hash ^ little_endian((const unsigned char *)span.at + i)) * 0x100000001b3;
    for (; i < span.length; i++) hash = (hash ^ (unsigned char)span.at[i]) * 0x100000001b3;
    hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15;
    size_t at = (hash ^ hash >> 29) & tally->mask;
    Slot *slot = tally->slots + at;
    while (slot->times && !(slot->number == number && same(slot->span, span))) slot = tally->slots + (++at & tally->mask);
    if (slot->times++ > 0) return;
    slot->number = number;
    slot->span = span;
    if (tally->last) tally->last->next = slot;
    else tally->first = slot;
    tally->last = slot;
}
