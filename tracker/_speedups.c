/* The compiled twins of the click path's innermost functions: a plain click's head, its query, the spelling of its id.
 *
 * Optional: built when the package is installed where a C compiler is found (_speedups_build.py), asked for by speedups.py.
 * Every function does what its twin in Python does, which is the one to read: framing.plain_click_in_python,
 * query_columns.take_any_query, click_id.spell_in_python. tests/property/test_speedups.py holds them together.
 *
 * Rules: no state but what the three factories are given; every read is bounded by `end`; nothing is allocated but the
 * objects that are returned; whatever is not the common case goes to the twin.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>
#include <strings.h>

enum { TOKEN = 1, SLUG = 2, TRAILING = 4, QUERY = 8, VALUE = 16, HOST = 32, HARMLESS = 64 };

static unsigned char kind[256];

static void mark(const char *characters, unsigned char bit) {
    for (; *characters; characters++) kind[(unsigned char)*characters] |= bit;
}

static void mark_kinds(void) {
    const char *alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    mark(alphanumeric, TOKEN | SLUG | HOST);
    mark("!#$%&'*+.^_`|~-", TOKEN);
    mark("_-", SLUG);
    mark("/.,;:!)']>", TRAILING);
    mark("._:[]-", HOST);
    mark("ABDFGIJLNOQVWYZabdfgijlnoqvwyz", HARMLESS);      /* no header whose name begins so needs a judgement */
    for (int c = 0x21; c <= 0x7e; c++) if (c != '#') kind[c] |= QUERY;
    for (int c = 0; c < 256; c++) if (c == '\t' || (c >= 0x20 && c != 0x7f)) kind[c] |= VALUE;
}

/* ── A plain click ──────────────────────────────────────────────────────────────────────────────────────────────────── */

#define CLICK_HEAD_LIMIT 8192
#define HEADERS_MAX 100

typedef struct { const char *at; Py_ssize_t length; } Span;

enum { USER_AGENT, A_HOST, REFERER, FORWARDED, PURPOSE, CONNECTION, KNOWN, OTHER, REFUSED };

static const struct { const char *name; int what; } NAMES[] = {
    {"user-agent", USER_AGENT}, {"host", A_HOST}, {"referer", REFERER}, {"x-forwarded-for", FORWARDED},
    {"sec-purpose", PURPOSE}, {"purpose", PURPOSE}, {"x-moz", PURPOSE}, {"connection", CONNECTION},
    {"proxy-connection", REFUSED}, {"content-length", REFUSED}, {"content-encoding", REFUSED}, {"content-type", REFUSED},
    {"content-location", REFUSED}, {"content-range", REFUSED}, {"transfer-encoding", REFUSED}, {"te", REFUSED},
    {"trailer", REFUSED}, {"upgrade", REFUSED}, {"expect", REFUSED}, {"keep-alive", REFUSED}, {"etag", REFUSED},
    {"max-forwards", REFUSED}, {"server", REFUSED}, {"sec-websocket-key1", REFUSED}, {NULL, OTHER},
};

static int header_of(const char *name, Py_ssize_t length) {
    int i = 0;
    for (; NAMES[i].name; i++)
        if (strlen(NAMES[i].name) == (size_t)length && strncasecmp(NAMES[i].name, name, (size_t)length) == 0) break;
    return NAMES[i].what;
}

static int is_blank(char c) { return c == ' ' || c == '\t'; }

static int says_prefetch(Span span) {
    static const char *words[] = {"prefetch", "prerender", "preview"};
    for (int w = 0; w < 3; w++) {
        Py_ssize_t length = (Py_ssize_t)strlen(words[w]);
        for (Py_ssize_t i = 0; i + length <= span.length; i++)
            if (strncasecmp(span.at + i, words[w], (size_t)length) == 0) return 1;
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
        while (p < end && kind[(unsigned char)*p] & VALUE) p++;
        if (end - p < 2 || p[0] != '\r' || p[1] != '\n') return NULL;
        if (what != OTHER) {
            Span span = {value, p - value};
            if (what != FORWARDED) while (span.length && is_blank(span.at[span.length - 1])) span.length--;
            if (what == CONNECTION && (span.length != 10 || strncasecmp(span.at, "keep-alive", 10) != 0)) return NULL;
            if (what == A_HOST) {
                if (span.length == 0) return NULL;
                for (Py_ssize_t i = 0; i < span.length; i++) if (!(kind[(unsigned char)span.at[i]] & HOST)) return NULL;
            }
            said[what] = span;
        }
        p += 2;
    }
    return seen & 1 << A_HOST ? p + 2 : NULL;
}

static PyObject *bytes_of(Span span) { return PyBytes_FromStringAndSize(span.at, span.length); }

/* `visit` is the type of the tuple made: slug, query, user agent, referrer, head, prefetch, beacon. */
static PyObject *plain_click(PyObject *visit, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "plain_click(data: bytes, start: int)");
        return NULL;
    }
    Py_ssize_t start = PyLong_AsSsize_t(args[1]), size = PyBytes_GET_SIZE(args[0]);
    if (start == -1 && PyErr_Occurred()) return NULL;
    if (start < 0 || start > size) Py_RETURN_NONE;
    const char *data = PyBytes_AS_STRING(args[0]), *p = data + start;
    const char *end = size - start > CLICK_HEAD_LIMIT ? p + CLICK_HEAD_LIMIT : data + size;
    int head = end - p >= 5 && memcmp(p, "HEAD ", 5) == 0;
    if (!head && !(end - p >= 4 && memcmp(p, "GET ", 4) == 0)) Py_RETURN_NONE;
    p += head ? 5 : 4;
    if (end - p < 3 || memcmp(p, "/c/", 3) != 0) Py_RETURN_NONE;
    p += 3;
    Span slug = {p, 0}, query = {"", 0}, said[KNOWN];
    while (p < end && kind[(unsigned char)*p] & SLUG) p++;
    slug.length = p - slug.at;
    if (slug.length < 1 || slug.length > 64) Py_RETURN_NONE;
    while (p < end && kind[(unsigned char)*p] & TRAILING) p++;
    if (p < end && (*p == '?' || *p == '&')) {
        query.at = ++p;
        while (p < end && kind[(unsigned char)*p] & QUERY) p++;
        query.length = p - query.at;
    }
    if (end - p < 11 || memcmp(p, " HTTP/1.1\r\n", 11) != 0) Py_RETURN_NONE;
    for (int i = 0; i < KNOWN; i++) said[i] = (Span){"", 0};
    p = read_headers(p + 11, end, said);
    if (p == NULL) Py_RETURN_NONE;

    PyObject *made = ((PyTypeObject *)visit)->tp_alloc((PyTypeObject *)visit, 7);
    if (made == NULL) return NULL;
    PyTuple_SET_ITEM(made, 0, bytes_of(slug));
    PyTuple_SET_ITEM(made, 1, bytes_of(query));
    PyTuple_SET_ITEM(made, 2, bytes_of(said[USER_AGENT]));
    PyTuple_SET_ITEM(made, 3, bytes_of(said[REFERER]));
    PyTuple_SET_ITEM(made, 4, PyBool_FromLong(head));
    PyTuple_SET_ITEM(made, 5, PyBool_FromLong(says_prefetch(said[PURPOSE])));
    PyTuple_SET_ITEM(made, 6, PyBool_FromLong(0));
    PyObject *forwarded = bytes_of(said[FORWARDED]), *after = PyLong_FromSsize_t(p - data), *found = NULL;
    if (forwarded && after && PyTuple_GET_ITEM(made, 0) && PyTuple_GET_ITEM(made, 1) && PyTuple_GET_ITEM(made, 2)
            && PyTuple_GET_ITEM(made, 3))
        found = PyTuple_Pack(3, made, forwarded, after);
    Py_DECREF(made);
    Py_XDECREF(forwarded);
    Py_XDECREF(after);
    return found;
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

static void put_length(char **out, Py_ssize_t length) {
    unsigned int n = (unsigned int)length;
    *(*out)++ = (char)(n >> 24); *(*out)++ = (char)(n >> 16); *(*out)++ = (char)(n >> 8); *(*out)++ = (char)n;
}

static void put(char **out, const char *from, Py_ssize_t length) { memcpy(*out, from, (size_t)length); *out += length; }

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

static PyObject *columns_of(const Query *query) {
    Py_ssize_t size = 4 * (LABELS + 1), document = 1;      /* jsonb's version byte, then {"name":"value",…} */
    for (int i = 0; i < LABELS; i++) size += query->labels[i].length;
    for (int i = 0; i < query->rest; i++) document += 6 + query->names[i].length + query->values[i].length;
    document += 1;
    PyObject *columns = PyBytes_FromStringAndSize(NULL, size + (query->rest ? document : 0));
    if (columns == NULL) return NULL;
    char *out = PyBytes_AS_STRING(columns);
    for (int i = 0; i < LABELS; i++) {
        put_length(&out, query->labels[i].length ? query->labels[i].length : -1);
        put(&out, query->labels[i].length ? query->labels[i].at : "", query->labels[i].length);
    }
    put_length(&out, query->rest ? document : -1);
    if (query->rest) put(&out, "\1", 1);
    for (int i = 0; i < query->rest; i++) {
        put(&out, i ? ",\"" : "{\"", 2);
        put(&out, query->names[i].at, query->names[i].length);
        put(&out, "\":\"", 3);
        put(&out, query->values[i].at, query->values[i].length);
        put(&out, "\"", 1);
    }
    if (query->rest) put(&out, "}", 1);
    return columns;
}

static Span value_of(const Query *query, PyObject *name) {
    Span asked = {PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)};
    int label = label_of(asked);
    if (label >= 0) return query->labels[label].length ? query->labels[label] : (Span){"", 0};
    for (int i = 0; i < query->rest; i++) if (same(query->names[i], asked)) return query->values[i];
    return (Span){"", 0};
}

static PyObject *take_query(PyObject *twin, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !PyBytes_Check(args[0]) || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take_query(raw: bytes, asked: tuple[bytes, ...])");
        return NULL;
    }
    Py_ssize_t length = PyBytes_GET_SIZE(args[0]), count = PyTuple_GET_SIZE(args[1]);
    char room[RAW_MAX_BYTES];
    Query query;
    const char *raw = PyBytes_AS_STRING(args[0]);
    if (length > RAW_MAX_BYTES || !read_query(raw, raw + length, room, &query)) return PyObject_Vectorcall(twin, args, 2, NULL);
    PyObject *columns = columns_of(&query), *values = PyTuple_New(count), *found = NULL;
    int whole = columns != NULL && values != NULL;
    for (Py_ssize_t i = 0; whole && i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(args[1], i);
        if (!PyBytes_Check(name)) PyErr_SetString(PyExc_TypeError, "a parameter's name is bytes");
        PyObject *value = PyBytes_Check(name) ? bytes_of(value_of(&query, name)) : NULL;
        whole = value != NULL;
        if (whole) PyTuple_SET_ITEM(values, i, value);
    }
    if (whole) found = PyTuple_Pack(3, columns, values, Py_False);
    Py_XDECREF(columns);
    Py_XDECREF(values);
    return found;
}

/* ── A click id's characters ────────────────────────────────────────────────────────────────────────────────────────── */

static PyObject *spell(PyObject *Py_UNUSED(self), PyObject *body) {
    if (!PyBytes_Check(body) || PyBytes_GET_SIZE(body) != 20) {
        PyErr_SetString(PyExc_ValueError, "a click id has 20 bytes");
        return NULL;
    }
    const unsigned char *in = (const unsigned char *)PyBytes_AS_STRING(body);
    PyObject *token = PyBytes_FromStringAndSize(NULL, 32);
    if (token == NULL) return NULL;
    char *out = PyBytes_AS_STRING(token);
    for (int group = 0; group < 4; group++, in += 5) {
        unsigned long long bits = (unsigned long long)in[0] << 32 | (unsigned long long)in[1] << 24 | in[2] << 16 | in[3] << 8 | in[4];
        for (int shift = 35; shift >= 0; shift -= 5) *out++ = "0123456789abcdefghijklmnopqrstuv"[bits >> shift & 31];
    }
    return token;
}

/* ── The module ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static PyMethodDef plain_click_method = {"plain_click", (PyCFunction)(void (*)(void))plain_click, METH_FASTCALL, NULL};
static PyMethodDef take_query_method = {"take_query", (PyCFunction)(void (*)(void))take_query, METH_FASTCALL, NULL};

static PyObject *plain_clicks(PyObject *Py_UNUSED(self), PyObject *visit) {
    if (!PyType_Check(visit) || !PyType_IsSubtype((PyTypeObject *)visit, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "plain_clicks(visit: a tuple type)");
        return NULL;
    }
    return PyCFunction_New(&plain_click_method, visit);
}

static PyObject *query_taker(PyObject *Py_UNUSED(self), PyObject *twin) { return PyCFunction_New(&take_query_method, twin); }

static PyMethodDef methods[] = {
    {"plain_clicks", plain_clicks, METH_O, "The function that reads a plain click into a `visit`."},
    {"query_taker", query_taker, METH_O, "The function that reads a query; `twin` does what it leaves alone."},
    {"spell", spell, METH_O, "A click id's 20 bytes as its 32 characters."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_speedups", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__speedups(void) {
    mark_kinds();
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddIntConstant(made, "SOURCE_CRC", SOURCE_CRC) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
