/* The compiled twins of the click path: a turn of the public port, a plain click's head, its query, ids, and the whole of a
 * common click.
 *
 * Optional: built when the package is installed where a C compiler is found (_speedups_build.py), asked for by speedups.py.
 * Every one does what its twin in Python does, which is the one to read: framing.plain_click_in_python,
 * query_columns.take_any_query, click_id.spell_in_python, click_id.RunInPython, statistics.tally_in_python; and Clerk, what a
 * lane, its desk and its redirector do with a common click (Lane._serve, Desk.take, Redirector.click); and, where there is
 * epoll, port.receive_in_python, port.accept_in_python, wire.send_in_python. test_speedups.py and test_clerk.py in
 * tests/property and test_port.py in tests/integration hold them together. What is done with bytes alone stands in
 * _speedups_bytes.h.
 *
 * Rules: no state but what the objects are given; whatever is not the common case goes to the twin, before anything was changed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#ifdef __linux__
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#endif
#include "_speedups_bytes.h"

static PyObject *bytes_of(Span span) { return PyBytes_FromStringAndSize(span.at, span.length); }

static Span span_of(PyObject *bytes) { return (Span){PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes)}; }

static void put_span(char **out, Span span) { put(out, span.at, span.length); }

/* ── A plain click ──────────────────────────────────────────────────────────────────────────────────────────────────── */

/* `visit` is the type of the tuple made: slug, query, user agent, referrer, head, prefetch, beacon. */
static PyObject *plain_click(PyObject *visit, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "plain_click(data: bytes, start: int)");
        return NULL;
    }
    Py_ssize_t start = PyLong_AsSsize_t(args[1]);
    Span data = span_of(args[0]);
    Click click;
    if (start == -1 && PyErr_Occurred()) return NULL;
    if (start < 0 || start > data.length || !read_click(data.at + start, data.at + data.length, &click)) Py_RETURN_NONE;

    PyObject *made = ((PyTypeObject *)visit)->tp_alloc((PyTypeObject *)visit, 7);
    if (made == NULL) return NULL;
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)made)->ob_hash = -1;      /* not known yet */
#endif
    PyTuple_SET_ITEM(made, 0, bytes_of(click.slug));
    PyTuple_SET_ITEM(made, 1, bytes_of(click.query));
    PyTuple_SET_ITEM(made, 2, bytes_of(click.said[USER_AGENT]));
    PyTuple_SET_ITEM(made, 3, bytes_of(click.said[REFERER]));
    PyTuple_SET_ITEM(made, 4, PyBool_FromLong(click.head));
    PyTuple_SET_ITEM(made, 5, PyBool_FromLong(click.prefetch));
    PyTuple_SET_ITEM(made, 6, PyBool_FromLong(0));
    PyObject *forwarded = bytes_of(click.said[FORWARDED]), *after = PyLong_FromSsize_t(click.after - data.at), *found = NULL;
    if (forwarded && after && PyTuple_GET_ITEM(made, 0) && PyTuple_GET_ITEM(made, 1) && PyTuple_GET_ITEM(made, 2)
            && PyTuple_GET_ITEM(made, 3))
        found = PyTuple_Pack(3, made, forwarded, after);
    Py_DECREF(made);
    Py_XDECREF(forwarded);
    Py_XDECREF(after);
    return found;
}

/* ── A visitor's query ──────────────────────────────────────────────────────────────────────────────────────────────── */

static PyObject *take_query(PyObject *twin, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !PyBytes_Check(args[0]) || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take_query(raw: bytes, asked: tuple[bytes, ...])");
        return NULL;
    }
    Span raw = span_of(args[0]);
    Py_ssize_t count = PyTuple_GET_SIZE(args[1]);
    char room[RAW_MAX_BYTES];
    Query query;
    if (raw.length > RAW_MAX_BYTES || !read_query(raw.at, raw.at + raw.length, room, &query))
        return PyObject_Vectorcall(twin, args, 2, NULL);
    PyObject *columns = PyBytes_FromStringAndSize(NULL, columns_size(&query)), *values = PyTuple_New(count), *found = NULL;
    int whole = columns != NULL && values != NULL;
    if (columns != NULL) {
        char *out = PyBytes_AS_STRING(columns);
        put_columns(&out, &query);
    }
    for (Py_ssize_t i = 0; whole && i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(args[1], i);
        if (!PyBytes_Check(name)) PyErr_SetString(PyExc_TypeError, "a parameter's name is bytes");
        PyObject *value = PyBytes_Check(name) ? bytes_of(value_of(&query, span_of(name))) : NULL;
        whole = value != NULL;
        if (whole) PyTuple_SET_ITEM(values, i, value);
    }
    if (whole) found = PyTuple_Pack(3, columns, values, Py_False);
    Py_XDECREF(columns);
    Py_XDECREF(values);
    return found;
}

/* ── Ids ────────────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define ID_BYTES 20
#define HEAD_BYTES 15
#define TOKEN_BYTES 32
#define COUNTER_LIMIT (1u << 20)
#define LINK_LIMIT (1l << 30)

static PyObject *spell(PyObject *Py_UNUSED(self), PyObject *body) {
    if (!PyBytes_Check(body) || PyBytes_GET_SIZE(body) != ID_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a click id has 20 bytes");
        return NULL;
    }
    PyObject *token = PyBytes_FromStringAndSize(NULL, TOKEN_BYTES);
    if (token == NULL) return NULL;
    char *out = PyBytes_AS_STRING(token);
    put_spelled(&out, (const unsigned char *)PyBytes_AS_STRING(body));
    return token;
}

/* The ids of one millisecond. `base`: the first 15 bytes of all of them, link and counter zero. */
typedef struct {
    PyObject_HEAD
    unsigned char base[HEAD_BYTES];
    unsigned int counter, left;
    Keyed key;
} Run;

/* Writes the next id's 20 bytes; 0 when they are used up. Bits: time 45, flags 6, key 4, link 30, worker 15, counter 20, MAC 40. */
static int next_id(Run *run, long link, long flags, char body[ID_BYTES]) {
    if (run->left == 0) return 0;
    memcpy(body, run->base, HEAD_BYTES);
    unsigned int counter = run->counter;
    body[5] |= (char)(flags >> 3);
    body[6] |= (char)((flags & 7) << 5 | link >> 29);
    for (int i = 0; i < 3; i++) body[7 + i] |= (char)(link >> (21 - 8 * i));
    body[10] |= (char)((link & 31) << 3);
    body[12] |= (char)(counter >> 16);
    body[13] = (char)(counter >> 8);
    body[14] = (char)counter;
    char *mac = body + HEAD_BYTES;
    put_digest(&mac, &run->key, (Span){body, HEAD_BYTES});
    run->counter = (counter + 1) % COUNTER_LIMIT;
    run->left--;
    return 1;
}

static PyObject *run_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Span base, key;
    unsigned int first;
    if (!PyArg_ParseTuple(args, "y#Iy#", &base.at, &base.length, &first, &key.at, &key.length)) return NULL;
    if (base.length != HEAD_BYTES || first >= COUNTER_LIMIT || key.length < 1 || key.length > 64) {
        PyErr_SetString(PyExc_ValueError, "Run(base: 15 bytes, first: 20 bits, key: 1 to 64 bytes)");
        return NULL;
    }
    Run *run = (Run *)type->tp_alloc(type, 0);
    if (run == NULL) return NULL;
    memcpy(run->base, base.at, HEAD_BYTES);
    run->counter = first;
    run->left = COUNTER_LIMIT;
    set_key(&run->key, key, ID_BYTES - HEAD_BYTES);
    return (PyObject *)run;
}

static PyObject *run_next(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    long link = nargs == 2 ? PyLong_AsLong(args[0]) : -1, flags = nargs == 2 ? PyLong_AsLong(args[1]) : -1;
    if (PyErr_Occurred()) return NULL;
    if (link < 0 || link >= LINK_LIMIT || flags < 0 || flags > 63) {
        PyErr_SetString(PyExc_OverflowError, "next(link: 30 bits, flags: 6 bits)");
        return NULL;
    }
    char body[ID_BYTES];
    if (!next_id((Run *)self, link, flags, body)) Py_RETURN_NONE;
    PyObject *uuid = PyBytes_FromStringAndSize(body, 16), *token = PyBytes_FromStringAndSize(NULL, TOKEN_BYTES), *made = NULL;
    if (uuid && token) {
        char *out = PyBytes_AS_STRING(token);
        put_spelled(&out, (const unsigned char *)body);
        made = PyTuple_Pack(2, uuid, token);
    }
    Py_XDECREF(uuid);
    Py_XDECREF(token);
    return made;
}

static PyMethodDef run_methods[] = {
    {"next", (PyCFunction)(void (*)(void))run_next, METH_FASTCALL, "Uuid and token; None when this millisecond's are used up."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject run_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "tracker._speedups.Run", .tp_basicsize = sizeof(Run), .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = run_new, .tp_methods = run_methods,
};

/* ── The clerk: a common click, from a connection's bytes to its row and its answer ────────────────────────────────────── */

/* What it holds on to. The first are dicts of its desk and redirector, theirs to fill and to clear; then what each row and
 * answer begins with; from ROWS on, what this loop iteration has collected: nothing while it is closed. */
enum {
    LINKS, AGENTS, REFERRERS, SOURCES, PLACES, LATELY, BEFORE_ID, BEFORE_VISITOR, FOUND, BEGIN, ROWS, ANSWERS, TAILS, RUN, HELD
};

typedef struct {
    PyObject_HEAD
    PyObject *held[HELD];
    int trusting;                       /* X-Forwarded-For says where a visitor is */
    long flood_clicks, flood_flag, location_limit;
    long long now_ms;
    Keyed visitors;
} Clerk;

static PyTypeObject clerk_type;
static PyObject *plan_name;             /* "plan", the attribute of a link */

static PyObject *clerk_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *names[] = {"links", "agents", "referrers", "sources", "places", "lately", "before_id", "before_visitor", "found",
                            "begin", "trusting", "flood_clicks", "flood_flag", "location_limit", NULL};
    PyObject *held[BEGIN + 1];
    int trusting;
    long flood_clicks, flood_flag, location_limit;
    if (!PyArg_ParseTupleAndKeywords(
            args, named, "$O!O!O!O!O!O!SSSOplll", names, &PyDict_Type, held, &PyDict_Type, held + 1, &PyDict_Type, held + 2,
            &PyDict_Type, held + 3, &PyDict_Type, held + 4, &PyDict_Type, held + 5, held + BEFORE_ID, held + BEFORE_VISITOR,
            held + FOUND, held + BEGIN, &trusting, &flood_clicks, &flood_flag, &location_limit))
        return NULL;
    Clerk *clerk = (Clerk *)type->tp_alloc(type, 0);
    if (clerk == NULL) return NULL;
    for (int i = 0; i <= BEGIN; i++) clerk->held[i] = Py_NewRef(held[i]);
    clerk->trusting = trusting;
    clerk->flood_clicks = flood_clicks;
    clerk->flood_flag = flood_flag;
    clerk->location_limit = location_limit;
    return (PyObject *)clerk;
}

static int clerk_traverse(PyObject *self, visitproc visit, void *arg) {
    for (int i = 0; i < HELD; i++) Py_VISIT(((Clerk *)self)->held[i]);
    return 0;
}

static int clerk_clear(PyObject *self) {
    for (int i = 0; i < HELD; i++) Py_CLEAR(((Clerk *)self)->held[i]);
    return 0;
}

static void clerk_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    clerk_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *clerk_key_visitors(PyObject *self, PyObject *key) {
    if (!PyBytes_Check(key) || PyBytes_GET_SIZE(key) < 1 || PyBytes_GET_SIZE(key) > 64) {
        PyErr_SetString(PyExc_ValueError, "a key has 1 to 64 bytes");
        return NULL;
    }
    set_key(&((Clerk *)self)->visitors, span_of(key), 8);
    Py_RETURN_NONE;
}

static PyObject *clerk_close(PyObject *self, PyObject *Py_UNUSED(none)) {
    for (int i = ROWS; i < HELD; i++) Py_CLEAR(((Clerk *)self)->held[i]);
    Py_RETURN_NONE;
}

static PyObject *clerk_open(PyObject *self, PyObject *args) {
    Clerk *clerk = (Clerk *)self;
    PyObject *given[HELD];
    long long now_ms;
    if (!PyArg_ParseTuple(args, "LO!O!O!O!", &now_ms, &PyList_Type, given + ROWS, &PyList_Type, given + ANSWERS,
                          &PyDict_Type, given + TAILS, &run_type, given + RUN))
        return NULL;
    if (clerk->visitors.size == 0) {      /* never set */
        PyErr_SetString(PyExc_ValueError, "key_visitors comes first");
        return NULL;
    }
    clerk->now_ms = now_ms;
    for (int i = ROWS; i < HELD; i++) Py_XSETREF(clerk->held[i], Py_NewRef(given[i]));
    Py_RETURN_NONE;
}

/* What a dict has for these bytes, a new reference; NULL without an error when it has nothing. */
static PyObject *known(PyObject *dict, Span span) {
    PyObject *key = bytes_of(span);
    if (key == NULL) return NULL;
    PyObject *found = PyDict_GetItemWithError(dict, key);
    Py_XINCREF(found);
    Py_DECREF(key);
    return found;
}

static int is_row_of(PyObject *object, Py_ssize_t size) { return PyTuple_Check(object) && PyTuple_GET_SIZE(object) == size; }

/* The bytes at a place of a tuple that our own Python made; whoever changes its shape is told. */
static Span part(PyObject *tuple, Py_ssize_t at) {
    PyObject *bytes = PyTuple_GET_ITEM(tuple, at);
    if (PyBytes_Check(bytes)) return span_of(bytes);
    PyErr_SetString(PyExc_TypeError, "a column is bytes");
    return (Span){"", 0};
}

/* A link's plan: link id, open until, its columns, referrer policy, and the destination: literal, name, literal … literal. Name
 * b"" is the click id. How many bytes the destination takes with all filled in. */
static Py_ssize_t location_size(PyObject *pieces, const Query *query) {
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(pieces); i++) {
        Span piece = part(pieces, i);
        size += i % 2 == 0 ? piece.length : piece.length == 0 ? TOKEN_BYTES : encoded_size(value_of(query, piece));
    }
    return size;
}

static void put_location(char **out, PyObject *pieces, const Query *query, const char token[TOKEN_BYTES]) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(pieces); i++) {
        Span piece = part(pieces, i);
        if (i % 2 == 0) put_span(out, piece);
        else if (piece.length == 0) put(out, token, TOKEN_BYTES);
        else put_encoded(out, value_of(query, piece));
    }
}

/* Counts a click of this address on this link: how many that makes lately; -1 with an error. */
static long count_lately(PyObject *lately, PyObject *link_id, PyObject *address) {
    PyObject *comer = PyTuple_Pack(2, link_id, address), *raised = NULL;
    if (comer == NULL) return -1;
    PyObject *before = PyDict_GetItemWithError(lately, comer);
    long clicks = before ? PyLong_AsLong(before) + 1 : 1;
    if (!PyErr_Occurred()) raised = PyLong_FromLong(clicks);
    if (raised == NULL || PyDict_SetItem(lately, comer, raised) < 0) clicks = -1;
    Py_DECREF(comer);
    Py_XDECREF(raised);
    return clicks;
}

/* All that is known of a common click before anything is changed for it. */
typedef struct {
    Click said;
    Query query;
    PyObject *plan, *agent, *referrer, *source, *place, *tail;
    Span channel;
    long link_id, flags;
} Case;

static void forget(Case *of) {
    Py_XDECREF(of->plan);
    Py_XDECREF(of->agent);
    Py_XDECREF(of->referrer);
    Py_XDECREF(of->source);
    Py_XDECREF(of->place);
    Py_XDECREF(of->tail);
}

/* The plan of the link with this slug; NULL without an error: no link of ours, or one that the twin serves. */
static PyObject *plan_of(PyObject *links, Span slug) {
    PyObject *link = known(links, slug);
    if (link == NULL) return NULL;
    PyObject *plan = PyObject_GetAttr(link, plan_name);
    Py_DECREF(link);
    if (plan == NULL || (is_row_of(plan, 5) && PyTuple_Check(PyTuple_GET_ITEM(plan, 4)))) return plan;
    Py_DECREF(plan);
    return NULL;
}

/* Where the visitor is: `here` unless a proxy that we trust says otherwise. */
static PyObject *place_of(Clerk *clerk, PyObject *here, PyObject *peer, Span forwarded) {
    if (!clerk->trusting || forwarded.length == 0) return Py_NewRef(here);
    PyObject *line = bytes_of(forwarded), *key = line ? PyTuple_Pack(2, peer, line) : NULL;
    PyObject *place = key ? PyDict_GetItemWithError(clerk->held[PLACES], key) : NULL;
    Py_XINCREF(place);
    Py_XDECREF(line);
    Py_XDECREF(key);
    return place;
}

/* 1: the click that `said` tells of is a common one; 0: it is not, perhaps with an error set. `room`: for the query's values. */
static int understand(Clerk *clerk, PyObject *here, PyObject *peer, char room[RAW_MAX_BYTES], Case *of) {
    memset(&of->plan, 0, sizeof *of - offsetof(Case, plan));
    if (of->said.head || of->said.prefetch) return 0;
    Span raw = of->said.query;
    if (raw.length > RAW_MAX_BYTES || !read_query(raw.at, raw.at + raw.length, room, &of->query)) return 0;
    if ((of->plan = plan_of(clerk->held[LINKS], of->said.slug)) == NULL) return 0;
    if ((of->agent = known(clerk->held[AGENTS], of->said.said[USER_AGENT])) == NULL) return 0;
    if ((of->referrer = known(clerk->held[REFERRERS], of->said.said[REFERER])) == NULL) return 0;
    if ((of->place = place_of(clerk, here, peer, of->said.said[FORWARDED])) == NULL) return 0;
    if (!is_row_of(of->agent, 4) || !is_row_of(of->referrer, 4) || !is_row_of(of->place, 4)) {
        PyErr_SetString(PyExc_TypeError, "agent, referrer and place are not what they were");
        return 0;
    }
    of->channel = part(of->referrer, 1);
    Span source = value_of(&of->query, (Span){"utm_source", 10});
    if (source.length) {
        if ((of->source = known(clerk->held[SOURCES], source)) == NULL) return 0;
        if (!PyBytes_Check(of->source)) {
            PyErr_SetString(PyExc_TypeError, "a column is bytes");
            return 0;
        }
        if (PyBytes_GET_SIZE(of->source) > 4) of->channel = span_of(of->source);      /* 4: the length alone, null */
    }
    if (clerk->held[TAILS] == NULL) return 0;      /* closed, by what a collection of garbage called when `place_of` asked for memory */
    of->tail = PyDict_GetItemWithError(clerk->held[TAILS], PyTuple_GET_ITEM(of->plan, 3));
    Py_XINCREF(of->tail);
    if (of->tail == NULL || !PyBytes_Check(of->tail)) return 0;
    of->link_id = PyLong_AsLong(PyTuple_GET_ITEM(of->plan, 0));
    of->flags = PyLong_AsLong(PyTuple_GET_ITEM(of->agent, 0)) | PyLong_AsLong(PyTuple_GET_ITEM(of->referrer, 0));
    long long open_until_ms = PyLong_AsLongLong(PyTuple_GET_ITEM(of->plan, 1));
    if (PyErr_Occurred() || of->link_id < 0 || of->link_id >= LINK_LIMIT || clerk->now_ms >= open_until_ms) return 0;
    return location_size(PyTuple_GET_ITEM(of->plan, 4), &of->query) <= clerk->location_limit && !PyErr_Occurred();
}

static PyObject *row_of(Clerk *clerk, const Case *of, const char id[ID_BYTES]) {
    Span agent = of->said.said[USER_AGENT], address = part(of->place, 2);
    char visitor[16 + 1 + CLICK_HEAD_LIMIT], *end = visitor;
    if (address.length > 16) return PyErr_Format(PyExc_ValueError, "an address has at most 16 bytes");
    put_span(&end, address);
    put(&end, "\0", 1);
    put_span(&end, agent);
    Span before[] = {span_of(clerk->held[BEFORE_ID]), {id, 16}, span_of(clerk->held[BEFORE_VISITOR])};
    Span link = part(of->plan, 2), country = part(of->place, 0), device = part(of->agent, 1), ip = part(of->place, 1);
    Span after[] = {of->channel, country, device, ip, part(of->agent, 2), part(of->referrer, 2)};
    if (PyErr_Occurred()) return NULL;
    Py_ssize_t size = 8 + link.length + 8 + columns_size(&of->query);      /* visitor, flags */
    for (int i = 0; i < 3; i++) size += before[i].length;
    for (int i = 0; i < 6; i++) size += after[i].length;
    PyObject *row = PyBytes_FromStringAndSize(NULL, size);
    if (row == NULL) return NULL;
    char *out = PyBytes_AS_STRING(row);
    for (int i = 0; i < 3; i++) put_span(&out, before[i]);
    put_digest(&out, &clerk->visitors, (Span){visitor, end - visitor});
    put_span(&out, link);
    put_length(&out, 4);
    put_length(&out, of->flags);
    for (int i = 0; i < 6; i++) put_span(&out, after[i]);
    put_columns(&out, &of->query);
    return row;
}

static PyObject *answer_of(Clerk *clerk, const Case *of, const char id[ID_BYTES]) {
    char token[TOKEN_BYTES], *end = token;
    PyObject *pieces = PyTuple_GET_ITEM(of->plan, 4);
    Span found = span_of(clerk->held[FOUND]), tail = span_of(of->tail);
    put_spelled(&end, (const unsigned char *)id);
    PyObject *answer = PyBytes_FromStringAndSize(NULL, found.length + location_size(pieces, &of->query) + tail.length);
    if (answer == NULL) return NULL;
    char *out = PyBytes_AS_STRING(answer);
    put_span(&out, found);
    put_location(&out, pieces, &of->query, token);
    put_span(&out, tail);
    return answer;
}

/* take(sink, data, start, here, peer): where the next request begins; 0: not a common click, nothing was done. */
static PyObject *clerk_take(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Clerk *clerk = (Clerk *)self;
    if (nargs != 5 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take(sink, data: bytes, start: int, here: Place, peer: str)");
        return NULL;
    }
    Span data = span_of(args[1]);
    Py_ssize_t start = PyLong_AsSsize_t(args[2]);
    if (start == -1 && PyErr_Occurred()) return NULL;
    char room[RAW_MAX_BYTES], id[ID_BYTES];
    Case of;
    if (start < 0 || start > data.length || !read_click(data.at + start, data.at + data.length, &of.said)) return PyLong_FromLong(0);
    if (clerk->held[ANSWERS] == NULL) {
        PyObject *done = clerk->held[BEGIN] ? PyObject_CallNoArgs(clerk->held[BEGIN]) : Py_NewRef(Py_None);
        if (done == NULL) return NULL;
        Py_DECREF(done);
        if (clerk->held[ANSWERS] == NULL) return PyLong_FromLong(0);
    }
    PyObject *row = NULL, *answer = NULL, *owed = NULL;
    Py_ssize_t after = 0;
    if (understand(clerk, args[3], args[4], room, &of) && next_id((Run *)clerk->held[RUN], of.link_id, 0, id)) {
        long clicks = count_lately(clerk->held[LATELY], PyTuple_GET_ITEM(of.plan, 0), PyTuple_GET_ITEM(of.place, 2));
        if (clicks > clerk->flood_clicks) of.flags |= clerk->flood_flag;
        row = clicks > 0 ? row_of(clerk, &of, id) : NULL;
        answer = row ? answer_of(clerk, &of, id) : NULL;
        owed = answer ? PyTuple_Pack(2, args[0], answer) : NULL;
        /* The row first: should memory end between the two, no answer lacks one. Closed meanwhile, by what a collection of
         * garbage called, it leaves the click to Python. */
        if (owed && clerk->held[ANSWERS] && PyList_Append(clerk->held[ROWS], row) == 0
                && PyList_Append(clerk->held[ANSWERS], owed) == 0)
            after = of.said.after - data.at;
    }
    forget(&of);
    Py_XDECREF(row);
    Py_XDECREF(answer);
    Py_XDECREF(owed);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(after);
}

static PyMethodDef clerk_methods[] = {
    {"key_visitors", clerk_key_visitors, METH_O, "The key of this day's visitors."},
    {"open", clerk_open, METH_VARARGS, "open(now_ms, rows, answers, tails, run): collect into these until `close`."},
    {"close", clerk_close, METH_NOARGS, "What was collected is taken; the next click calls `begin` first."},
    {"take", (PyCFunction)(void (*)(void))clerk_take, METH_FASTCALL, "take(sink, data, start, here, peer): what it took, or 0."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject clerk_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "tracker._speedups.Clerk", .tp_basicsize = sizeof(Clerk), .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = clerk_new, .tp_methods = clerk_methods, .tp_traverse = clerk_traverse, .tp_clear = clerk_clear,
    .tp_dealloc = clerk_dealloc,
};

/* ── Statistics ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Where things stand in a row: storage/clicks/statistics.py. */
enum { LINK_AT = 38, SOURCE_AT = 50, FLAGS_AT = 73, CHANNEL_AT = 78 };

static int raise_counts(PyObject *counts, const Tally *tally, int by_link) {
    for (const Slot *slot = tally->first; slot; slot = slot->next) {
        PyObject *key = by_link
            ? Py_BuildValue("ki", (unsigned long)(slot->number >> 8), (int)(slot->number & 255)) : bytes_of(slot->span);
        PyObject *before = key ? PyDict_GetItemWithError(counts, key) : NULL;
        PyObject *raised = PyErr_Occurred() ? NULL : PyLong_FromLong(slot->times + (before ? PyLong_AsLong(before) : 0));
        int done = raised != NULL && !PyErr_Occurred() && PyDict_SetItem(counts, key, raised) == 0;
        Py_XDECREF(key);
        Py_XDECREF(raised);
        if (!done) return 0;
    }
    return 1;
}

/* Counts the row at `start` in both tables; 0 with an error when it is not whole. */
static int tally_row(Span rows, Py_ssize_t start, Tally *links, Tally *sources) {
    const unsigned char *row = (const unsigned char *)rows.at + start;
    Py_ssize_t at = CHANNEL_AT - 4;
    int text = 0;      /* channel, country, device: none is longer than the last byte of its length says, 255 is null */
    for (; text < 3 && rows.length - start - at >= 4; text++) at += 4 + (row[at + 3] == 255 ? 0 : row[at + 3]);
    if (text < 3 || rows.length - start < at) {
        PyErr_Format(PyExc_ValueError, "the row at %zd is cut off", start);
        return 0;
    }
    uint64_t link = 0;
    for (int i = 0; i < 4; i++) link = link << 8 | row[LINK_AT + i];
    count_one(links, link << 8 | row[FLAGS_AT], (Span){"", 0});
    count_one(sources, 0, (Span){(const char *)row + SOURCE_AT, at - SOURCE_AT});
    return 1;
}

/* tally(rows, starts, links, sources): raises the counts in two dicts, by link id and flags, and by what a source is made of. */
static PyObject *tally(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 4 || !PyBytes_Check(args[0]) || !PyList_Check(args[1]) || !PyDict_Check(args[2]) || !PyDict_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "tally(rows: bytes, starts: list, links: dict, sources: dict)");
        return NULL;
    }
    Span rows = span_of(args[0]);
    Py_ssize_t count = PyList_GET_SIZE(args[1]);
    size_t slots = 16;
    while (slots < 2 * (size_t)count) slots *= 2;
    Slot *room = PyMem_Calloc(2 * slots, sizeof(Slot));
    if (room == NULL) return PyErr_NoMemory();
    Tally links = {room, NULL, NULL, slots - 1}, sources = {room + slots, NULL, NULL, slots - 1};
    int whole = 1;
    for (Py_ssize_t i = 0; whole && i < count; i++) {
        Py_ssize_t start = PyLong_AsSsize_t(PyList_GET_ITEM(args[1], i));
        whole = !(start == -1 && PyErr_Occurred());
        if (whole && (start < 0 || start > rows.length)) {
            PyErr_Format(PyExc_ValueError, "there is no row at %zd", start);
            whole = 0;
        }
        whole = whole && tally_row(rows, start, &links, &sources);
    }
    whole = whole && raise_counts(args[2], &links, 1) && raise_counts(args[3], &sources, 0);
    PyMem_Free(room);
    if (!whole) return NULL;
    Py_RETURN_NONE;
}

/* ── Sockets ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

#ifdef __linux__

enum { READ_BYTES = 1 << 16, TURN_CONNECTIONS = 256 };      /* web/wire.py, web/port.py */

static PyObject *received_name, *woken_name;

/* What a ready connection has to say: bytes it sent, or the events; NULL: nothing after all, or an error is set. */
static PyObject *heard(struct epoll_event *ready, char *room) {
    if (ready->events == EPOLLIN) {
        ssize_t length = recv(ready->data.fd, room, READ_BYTES, MSG_DONTWAIT);
        if (length >= 0) return PyBytes_FromStringAndSize(room, length);
        if (errno == EAGAIN || errno == EINTR) return NULL;
        ready->events = EPOLLERR;
    }
    return PyLong_FromLong((long)ready->events);
}

/* The interpreter stays held: no call here waits. */
static PyObject *receive(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t nargs) {
    static char room[READ_BYTES];
    struct epoll_event ready[TURN_CONNECTIONS];
    PyObject *wires[TURN_CONNECTIONS], *said[TURN_CONNECTIONS];
    if (nargs != 2 || !PyList_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "receive(poll, wires: list)");
        return NULL;
    }
    int poll = PyObject_AsFileDescriptor(args[0]), count = 0;
    if (poll >= 0 && (count = epoll_wait(poll, ready, TURN_CONNECTIONS, 0)) < 0) {
        if (errno == EINTR) Py_RETURN_NONE;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    for (int i = 0; i < count; i++) {
        wires[i] = PyList_GetItem(args[1], ready[i].data.fd);      /* an error stays set, and ends this below */
        Py_XINCREF(wires[i]);
        said[i] = wires[i] && wires[i] != Py_None && !PyErr_Occurred() ? heard(&ready[i], room) : NULL;
    }
    for (int i = 0; i < count; i++) {
        Py_ssize_t fd = ready[i].data.fd;
        if (said[i] && !PyErr_Occurred() && fd < PyList_GET_SIZE(args[1]) && PyList_GET_ITEM(args[1], fd) == wires[i]) {
            PyObject *call[] = {wires[i], said[i]}, *name = PyBytes_Check(said[i]) ? received_name : woken_name;
            Py_XDECREF(PyObject_VectorcallMethod(name, call, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL));
        }
        Py_XDECREF(said[i]);
        Py_XDECREF(wires[i]);
    }
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyObject *send_now(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "send(fd: int, data: bytes)");
        return NULL;
    }
    Py_buffer data;
    int fd = (int)PyLong_AsLong(args[0]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) return NULL;
    ssize_t sent = send(fd, data.buf, (size_t)data.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    int failed = sent < 0 ? errno : 0;
    PyBuffer_Release(&data);
    if (failed == 0) return PyLong_FromSsize_t(sent);
    if (failed == EAGAIN || failed == EINTR) return PyLong_FromLong(0);
    errno = failed;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *accept_one(PyObject *Py_UNUSED(self), PyObject *listening) {
    union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } name;
    socklen_t length = sizeof name;
    char peer[INET6_ADDRSTRLEN] = "";
    int door = PyObject_AsFileDescriptor(listening);
    if (door < 0) return NULL;
    int fd = accept4(door, &name.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EAGAIN) Py_RETURN_NONE;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (name.any.sa_family == AF_INET) inet_ntop(AF_INET, &name.v4.sin_addr, peer, sizeof peer);
    else if (name.any.sa_family == AF_INET6) inet_ntop(AF_INET6, &name.v6.sin6_addr, peer, sizeof peer);
    PyObject *newcomer = Py_BuildValue("is", fd, peer);
    if (newcomer == NULL) close(fd);
    return newcomer;
}
#endif

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
    {"tally", (PyCFunction)(void (*)(void))tally, METH_FASTCALL, "Counts rows by link and by source."},
#ifdef __linux__
    {"receive", (PyCFunction)(void (*)(void))receive, METH_FASTCALL, "One turn of a port: what ready connections sent."},
    {"accept", accept_one, METH_O, "A newcomer's descriptor and address."},
    {"send", (PyCFunction)(void (*)(void))send_now, METH_FASTCALL, "How much of an answer the kernel took."},
#endif
    {"spell", spell, METH_O, "A click id's 20 bytes as its 32 characters."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_speedups", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__speedups(void) {
    mark_kinds();
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
#ifdef __linux__
    received_name = PyUnicode_InternFromString("received");
    woken_name = PyUnicode_InternFromString("woken");
    if (received_name == NULL || woken_name == NULL) return NULL;
#endif
    plan_name = PyUnicode_InternFromString("plan");
    if (plan_name == NULL || PyModule_AddType(made, &run_type) < 0 || PyModule_AddType(made, &clerk_type) < 0
            || PyModule_AddIntConstant(made, "SOURCE_CRC", SOURCE_CRC) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
