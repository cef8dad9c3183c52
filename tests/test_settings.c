/* test_settings.c: every kind of setting, every refusal with its exact sentence, the environment,
 * the secret's file, the printed table, and the launcher's variables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/settings.h"
#include "tests/suite.h"
#include "tutti/tutti.h"

extern char **environ;

/* Removes every TUTTI_* variable but those of the tests, so that the machine's do not matter. */
static void clean_environment(void)
{
    for (char **variable = environ; *variable;) {
        char name[128];
        size_t len = strcspn(*variable, "=");
        if (strncmp(*variable, "TUTTI_", 6) == 0 && strncmp(*variable, "TUTTI_TEST_", 11) != 0 &&
            len < sizeof name) {
            memcpy(name, *variable, len);
            name[len] = '\0';
            unsetenv(name);
            variable = environ;
        } else {
            variable++;
        }
    }
}

static void expect_refused(const char *name, const char *text, const char *sentence)
{
    struct settings settings, before;
    settings_defaults(&settings);
    before = settings;
    CU_ASSERT_EQUAL(settings_set(&settings, name, text), TUTTI_ERR_SETTING);
    CU_ASSERT_STRING_EQUAL(status_sentence(), sentence);
    if (strcmp(status_sentence(), sentence) != 0)
        printf("    got: %s\n", status_sentence());
    CU_ASSERT_EQUAL(memcmp(&settings, &before, sizeof settings), 0);
}

static void test_settings_defaults_are_those_of_the_list(void)
{
    struct settings settings;
    settings_defaults(&settings);
    CU_ASSERT_EQUAL(settings.log, 2);
    CU_ASSERT_STRING_EQUAL(settings.rendezvous, "");
    CU_ASSERT_STRING_EQUAL(settings.transports, "auto");
    CU_ASSERT_EQUAL(settings.size, 1);
    CU_ASSERT_EQUAL(settings.timeout_ms, 600000);
    CU_ASSERT_TRUE(settings.cma);
}

/* Every one by its name, with its value as text. */
static void test_settings_one_by_one(void)
{
    struct settings settings;
    char text[SETTING_TEXT_MAX];
    const char *name;
    size_t count = 0;
    settings_defaults(&settings);
    for (; (name = settings_name(count)) != NULL; count++)
        CU_ASSERT_EQUAL(settings_get(&settings, name, text, sizeof text), TUTTI_OK);
    CU_ASSERT(count > 40);
    CU_ASSERT_STRING_EQUAL(settings_name(count - 1), "NCCL_SOCKET_IFNAME");
    CU_ASSERT_EQUAL(settings_set(&settings, "CHUNK", "64K"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings_get(&settings, "TUTTI_CHUNK", text, sizeof text), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(text, "65536");
    CU_ASSERT_EQUAL(settings_get(&settings, "TUTTI_ALGO", text, sizeof text), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(text, "");
    CU_ASSERT_EQUAL(settings_get(&settings, "TUTTI_CMA", text, 3), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(text, "ye");
    CU_ASSERT_EQUAL(settings_get(&settings, "CHUNK", text, sizeof text), TUTTI_ERR_ARG);
    CU_ASSERT_STRING_EQUAL(status_sentence(), "there is no setting CHUNK");
    CU_ASSERT_EQUAL(settings_get(&settings, "NCCL_ALGO", text, sizeof text), TUTTI_ERR_ARG);
}

static void test_settings_numbers_take_suffixes(void)
{
    struct settings settings;
    settings_defaults(&settings);
    CU_ASSERT_EQUAL(settings_set(&settings, "CHUNK", "64K"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings.chunk, 65536);
    CU_ASSERT_EQUAL(settings_set(&settings, "TUTTI_CHUNK", "3m"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings.chunk, 3u << 20);
    CU_ASSERT_EQUAL(settings_set(&settings, "CHUNK", "1G"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings.chunk, 1u << 30);
    CU_ASSERT_EQUAL(settings_set(&settings, "CHUNK", "0"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings.chunk, 0);
}

static void test_settings_refuse_numbers_with_one_sentence(void)
{
    expect_refused("LANES", "99", "TUTTI_LANES=99 is out of range: expected 0 to 7");
    expect_refused("SPIN_US", "-1", "TUTTI_SPIN_US=-1 is out of range: expected 0 to 1000000");
    expect_refused("SIZE", "0", "TUTTI_SIZE=0 is out of range: expected 1 to 65536");
    expect_refused("SIZE", "65K", "TUTTI_SIZE=65K is out of range: expected 1 to 65536");
    expect_refused("CHUNK", "99999999999999999999",
                   "TUTTI_CHUNK=99999999999999999999 is out of range: expected 0 to 1073741824");
    expect_refused("CHUNK", "18446744073709551615G",
                   "TUTTI_CHUNK=18446744073709551615G is out of range: expected 0 to 1073741824");
    static const char *const words[] = {"many", "",   "-",   "-x",   "+1",
                                        " 1",   "1 ", "1.5", "0x10", "4KB"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char sentence[256];
        snprintf(sentence, sizeof sentence,
                 "TUTTI_LANES=%s is not a number: expected 0 to 7 (K, M, G may follow)", words[i]);
        expect_refused("LANES", words[i], sentence);
    }
}

static void test_settings_switches(void)
{
    static const char *const on[] = {"1", "yes", "on", "true", "YES"};
    static const char *const off[] = {"0", "no", "off", "false", "Off"};
    struct settings settings;
    settings_defaults(&settings);
    for (size_t i = 0; i < 5; i++) {
        CU_ASSERT_EQUAL(settings_set(&settings, "CMA", off[i]), TUTTI_OK);
        CU_ASSERT_FALSE(settings.cma);
        CU_ASSERT_EQUAL(settings_set(&settings, "CMA", on[i]), TUTTI_OK);
        CU_ASSERT_TRUE(settings.cma);
    }
    expect_refused("CMA", "maybe",
                   "TUTTI_CMA=maybe is neither yes nor no: expected 0, 1, no, yes, off or on");
    expect_refused("CMA", "",
                   "TUTTI_CMA= is neither yes nor no: expected 0, 1, no, yes, off or on");
    expect_refused("CMA", "0|1",
                   "TUTTI_CMA=0|1 is neither yes nor no: expected 0, 1, no, yes, off or on");
}

static void test_settings_choices(void)
{
    struct settings settings;
    settings_defaults(&settings);
    CU_ASSERT_EQUAL(settings_set(&settings, "LOG", "debug"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings.log, 4);
    CU_ASSERT_EQUAL(settings_set(&settings, "FAMILY", "IPv6"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings.family, 2);
    expect_refused("LOG", "loud",
                   "TUTTI_LOG=loud is unknown: expected one of none|error|warn|info|debug");
    expect_refused("LOG", "deb",
                   "TUTTI_LOG=deb is unknown: expected one of none|error|warn|info|debug");
    expect_refused("FAMILY", "", "TUTTI_FAMILY= is unknown: expected one of any|ipv4|ipv6");
}

static void test_settings_texts(void)
{
    struct settings settings;
    char text[400];
    settings_defaults(&settings);
    CU_ASSERT_EQUAL(settings_set(&settings, "ALGO", "allreduce:ring"), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(settings.algo, "allreduce:ring");
    memset(text, 'x', sizeof text);
    text[63] = '\0';
    CU_ASSERT_EQUAL(settings_set(&settings, "HOST_ID", text), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(settings.host_id, text);
    text[63] = 'x';
    text[64] = '\0';
    expect_refused("HOST_ID", text, "TUTTI_HOST_ID is 64 bytes long: expected at most 63");
    text[64] = 'x';
    text[300] = '\0';
    expect_refused("ALGO", text, "TUTTI_ALGO is 300 bytes long: expected at most 255");
}

static void test_settings_unknown_name_gets_its_neighbours(void)
{
    expect_refused("LANE", "1",
                   "TUTTI_LANE is no setting: did you mean TUTTI_LANES or TUTTI_RANK?");
    expect_refused("TIMEOUT", "1", "TUTTI_TIMEOUT is no setting: did you mean TUTTI_TIMEOUT_MS?");
    expect_refused("SECERT_FILE", "1",
                   "TUTTI_SECERT_FILE is no setting: did you mean TUTTI_SECRET_FILE?");
    expect_refused("lanes", "1", "TUTTI_lanes is no setting: did you mean TUTTI_LANES?");
    expect_refused("COLOUR_OF_THE_SKY", "1",
                   "TUTTI_COLOUR_OF_THE_SKY is no setting: coll_perf --settings lists those there "
                   "are");
    char name[600];
    memset(name, 'A', sizeof name);
    name[599] = '\0';
    struct settings settings;
    settings_defaults(&settings);
    CU_ASSERT_EQUAL(settings_set(&settings, name, "1"), TUTTI_ERR_SETTING);
    CU_ASSERT(strlen(status_sentence()) < 200);
}

/* As Kubernetes and Docker set them where a service has that name. */
static void test_settings_leave_what_tells_of_a_service(void)
{
    static const char *const told[][2] = {{"TUTTI_SERVICE_HOST", "10.96.7.1"},
                                          {"TUTTI_SERVICE_PORT", "5555"},
                                          {"TUTTI_SERVICE_PORT_RENDEZVOUS", "5555"},
                                          {"TUTTI_PORT", "tcp://10.96.7.1:5555"},
                                          {"TUTTI_PORT_5555_TCP", "tcp://10.96.7.1:5555"},
                                          {"TUTTI_PORT_5555_TCP_PROTO", "tcp"},
                                          {"TUTTI_PORT_5555_TCP_PORT", "5555"},
                                          {"TUTTI_PORT_5555_TCP_ADDR", "10.96.7.1"},
                                          {"TUTTI_RANK_0_SERVICE_HOST", "10.96.7.2"},
                                          {"TUTTI_RANK_0_PORT", "udp://10.96.7.2:53"},
                                          {"TUTTI_RANK_0_PORT_53_UDP_ADDR", "10.96.7.2"}};
    static const char *const mistaken[][2] = {{"TUTTI_PORT", "5000-5100"},
                                              {"TUTTI_PORT_RANGE", "5000-5100"},
                                              {"TUTTI_SERVICE_LEVEL", "3"},
                                              {"TUTTI_INTERFACE_PORT", "2"}};
    struct settings settings;
    clean_environment();
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        setenv(told[i][0], told[i][1], 1);
    CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_OK);
    for (size_t i = 0; i < sizeof mistaken / sizeof *mistaken; i++) {
        clean_environment();
        setenv(mistaken[i][0], mistaken[i][1], 1);
        CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_ERR_SETTING);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), " is no setting: "));
    }
    clean_environment();
}

static void test_settings_load_reads_the_environment(void)
{
    struct settings settings;
    clean_environment();
    setenv("TUTTI_LANES", "4", 1);
    setenv("TUTTI_TEST_ANYTHING", "left alone", 1);
    setenv("TUTTILANES", "not ours", 1);
    CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_OK);
    setenv("TUTTI_PORTS", "5-1", 1);
    CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "TUTTI_PORTS=5-1 is no port range"));
    unsetenv("TUTTI_PORTS");
    CU_ASSERT_EQUAL(settings.lanes, 4);
    CU_ASSERT_EQUAL(settings.size, 1);
    setenv("TUTTI_LANES", "9", 1);
    settings.lanes = 77;
    CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_ERR_SETTING);
    CU_ASSERT_STRING_EQUAL(status_sentence(), "TUTTI_LANES=9 is out of range: expected 0 to 7");
    CU_ASSERT_EQUAL(settings.lanes, 77);
    unsetenv("TUTTI_LANES");
    setenv("TUTTI_ALOG", "x", 1);
    CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "TUTTI_ALOG is no setting: did you mean"));
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "TUTTI_ALGO"));
    clean_environment();
    unsetenv("TUTTILANES");
    unsetenv("TUTTI_TEST_ANYTHING");
}

/* Loads with TUTTI_SECRET_FILE naming a file of this content. */
static tutti_status load_secret(const char *content, size_t len, struct settings *settings)
{
    char path[] = "/tmp/tutti_test_secret_XXXXXX";
    int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(write(fd, content, len), (ssize_t)len);
    close(fd);
    setenv("TUTTI_SECRET_FILE", path, 1);
    tutti_status status = settings_load(settings);
    unlink(path);
    unsetenv("TUTTI_SECRET_FILE");
    return status;
}

static void test_settings_secret_comes_from_its_file(void)
{
    struct settings settings;
    char text[300];
    clean_environment();
    CU_ASSERT_EQUAL(load_secret("xyzzy\r\n", 7, &settings), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(settings.secret, "xyzzy");
    CU_ASSERT_EQUAL(load_secret("xyzzy", 5, &settings), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(settings.secret, "xyzzy");
    CU_ASSERT_EQUAL(load_secret("\n", 1, &settings), TUTTI_ERR_SETTING);
    CU_ASSERT_EQUAL(load_secret("a\0b", 3, &settings), TUTTI_ERR_SETTING);
    memset(text, 's', sizeof text);
    CU_ASSERT_EQUAL(load_secret(text, 255, &settings), TUTTI_OK);
    CU_ASSERT_EQUAL(load_secret(text, 256, &settings), TUTTI_ERR_SETTING);
    CU_ASSERT_EQUAL(load_secret(text, 300, &settings), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "must hold one line of 1 to 255 bytes"));
    CU_ASSERT_EQUAL(load_secret("two\nlines\n", 10, &settings), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "must hold one line of"));
    setenv("TUTTI_SECRET", "both", 1);
    CU_ASSERT_EQUAL(load_secret("xyzzy", 5, &settings), TUTTI_ERR_SETTING);
    CU_ASSERT_STRING_EQUAL(status_sentence(),
                           "TUTTI_SECRET and TUTTI_SECRET_FILE are both set: keep one");
    unsetenv("TUTTI_SECRET");
    setenv("TUTTI_SECRET_FILE", "/nowhere/secret", 1);
    CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_ERR_SETTING);
    CU_ASSERT_STRING_EQUAL(
        status_sentence(),
        "open TUTTI_SECRET_FILE=/nowhere/secret: No such file or directory (errno 2)");
    setenv("TUTTI_SECRET_FILE", "/tmp", 1);
    CU_ASSERT_EQUAL(settings_load(&settings), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(status_sentence(), "read TUTTI_SECRET_FILE=/tmp: Is a directory"));
    clean_environment();
}

static void test_settings_print_shows_every_row_but_no_secret(void)
{
    struct settings settings;
    static char text[32768];
    settings_defaults(&settings);
    CU_ASSERT_EQUAL(settings_set(&settings, "SECRET", "xyzzy"), TUTTI_OK);
    CU_ASSERT_EQUAL(settings_set(&settings, "LANES", "3"), TUTTI_OK);
    size_t len = settings_print(&settings, text, sizeof text);
    CU_ASSERT_EQUAL(len, strlen(text));
#define X(KIND, field, name, value, minimum, maximum, doc)                                         \
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "TUTTI_" name " "));                                       \
    CU_ASSERT_PTR_NOT_NULL(strstr(text, doc));
    SETTINGS_LIST(X)
#undef X
    CU_ASSERT_PTR_NULL(strstr(text, "xyzzy"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "(hidden)"));
    char small[10];
    memset(small, '!', sizeof small);
    CU_ASSERT_EQUAL(settings_print(&settings, small, 8), len);
    CU_ASSERT_EQUAL(strncmp(small, text, 7), 0);
    CU_ASSERT_EQUAL(small[7], '\0');
    CU_ASSERT_EQUAL(small[8], '!');
    CU_ASSERT_EQUAL(settings_print(&settings, small, 1), len);
    CU_ASSERT_EQUAL(small[0], '\0');
    CU_ASSERT_EQUAL(settings_print(&settings, NULL, 0), len);
}

static void test_settings_defaults_may_be_replaced(void)
{
    struct settings settings;
    char text[64];
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_CHUNK", "2K"), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_ALGO", "allreduce:ring"), TUTTI_OK);
    settings_defaults(&settings);
    CU_ASSERT_EQUAL(settings.chunk, 2048);
    CU_ASSERT_STRING_EQUAL(settings.algo, "allreduce:ring");
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_CHUNK", "0"), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_ALGO", ""), TUTTI_OK);
    setenv("TUTTI_LANES", "3", 1);
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_LANES", "5"), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_setting_get("TUTTI_LANES", text, sizeof text), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(text, "3");
    unsetenv("TUTTI_LANES");
    CU_ASSERT_EQUAL(tutti_setting_get("TUTTI_LANES", text, sizeof text), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(text, "5");
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_LANES", "99"), TUTTI_ERR_SETTING);
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_LANES", "0"), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_NOTHING", "0"), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(tutti_setting_default("LANES", "0"), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(tutti_setting_default(NULL, "0"), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(tutti_setting_default("TUTTI_LANES", NULL), TUTTI_ERR_ARG);
}

static void test_settings_patterns(void)
{
    CU_ASSERT_TRUE(settings_pattern("eth0", 4, "eth0"));
    CU_ASSERT_FALSE(settings_pattern("eth0", 3, "eth0"));
    CU_ASSERT_FALSE(settings_pattern("eth", 3, "eth0"));
    CU_ASSERT_TRUE(settings_pattern("eth*", 4, "eth0"));
    CU_ASSERT_TRUE(settings_pattern("eth0*", 5, "eth0"));
    CU_ASSERT_TRUE(settings_pattern("*", 1, ""));
    CU_ASSERT_FALSE(settings_pattern("", 0, "eth0"));
}

static void test_settings_launcher_variables_are_a_closed_list(void)
{
    setenv("PMI_RANK", "5", 1);
    CU_ASSERT_STRING_EQUAL(settings_launcher_variable("PMI_RANK"), "5");
    unsetenv("PMI_RANK");
    CU_ASSERT_PTR_NULL(settings_launcher_variable("PMI_RANK"));
    fflush(stdout);
    pid_t child = fork();
    CU_ASSERT_FATAL(child >= 0);
    if (child == 0) {
        fclose(stderr);
        close(STDERR_FILENO);
        settings_launcher_variable("LD_PRELOAD");
        _exit(0);
    }
    int status = 0;
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_TRUE(WIFSIGNALED(status));
}

static const struct suite_test tests[] = {
    {"settings_defaults_are_those_of_the_list", test_settings_defaults_are_those_of_the_list},
    {"one_by_one", test_settings_one_by_one},
    {"settings_numbers_take_suffixes", test_settings_numbers_take_suffixes},
    {"settings_refuse_numbers_with_one_sentence", test_settings_refuse_numbers_with_one_sentence},
    {"settings_switches", test_settings_switches},
    {"settings_choices", test_settings_choices},
    {"settings_texts", test_settings_texts},
    {"settings_unknown_name_gets_its_neighbours", test_settings_unknown_name_gets_its_neighbours},
    {"settings_leave_what_tells_of_a_service", test_settings_leave_what_tells_of_a_service},
    {"settings_load_reads_the_environment", test_settings_load_reads_the_environment},
    {"settings_secret_comes_from_its_file", test_settings_secret_comes_from_its_file},
    {"settings_print_shows_every_row_but_no_secret",
     test_settings_print_shows_every_row_but_no_secret},
    {"defaults_may_be_replaced", test_settings_defaults_may_be_replaced},
    {"patterns", test_settings_patterns},
    {"settings_launcher_variables_are_a_closed_list",
     test_settings_launcher_variables_are_a_closed_list},
};

int main(int argc, char **argv)
{
    return suite_run("settings", tests, sizeof tests / sizeof *tests, argc, argv);
}
